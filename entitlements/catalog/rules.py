"""What features and entitlements have to be like to mean anything."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from entitlements.catalog.model import (
    Aggregation,
    Entitlement,
    EntitlementValue,
    Feature,
    FeatureKind,
    GrantMode,
    ResetPeriod,
    TrialStep,
    TrialTerms,
)
from entitlements.catalog.prices import Features
from entitlements.catalog.report import Report, present
from entitlements.catalog.schema import FeatureShape, MeteredShape, TrialShape, number_value
from entitlements.catalog.source import Path

_FIELDS = {
    FeatureKind.BOOLEAN: (),
    FeatureKind.NUMBER: ("higher_is_better",),
    FeatureKind.ENUM: ("values",),
    FeatureKind.METERED: ("aggregation", "reset"),
}
_KIND_FIELDS = ("higher_is_better", "values", "aggregation", "reset")


def read_features(shapes: list[FeatureShape], report: Report) -> dict[str, Feature]:
    """The features that are in order, by id."""
    found = list(present(shapes, ("features",)))
    report.unique((((*path, "id"), shape.id) for path, shape in found), "feature")
    features = {shape.id: _feature(shape, path, report) for path, shape in found}
    return {id: feature for id, feature in features.items() if feature is not None}


def _feature(shape: FeatureShape, path: Path, report: Report) -> Feature | None:
    own = _FIELDS[shape.kind]
    for key in _KIND_FIELDS:
        given = getattr(shape, key) is not None
        if given and key not in own:
            report.add((*path, key), "NOT_FOR_KIND", f"a feature of kind {shape.kind} has no {key}")
        # A level needs no reset: it never does.
        optional = key == "reset" and shape.aggregation is not Aggregation.SUM
        if key in own and not given and not optional:
            report.add((*path, key), "MISSING", f"a feature of kind {shape.kind} needs {key}")
    is_level = shape.aggregation is Aggregation.LEVEL
    if is_level and shape.reset not in (None, ResetPeriod.NEVER):
        words = "a level is what is there now: it never resets"
        report.add((*path, "reset"), "LEVEL_RESETS", words)
    values = list(present(shape.values, (*path, "values")))
    report.unique(values, "value")
    if not report.is_clean(path):
        return None
    return Feature(
        id=shape.id,
        name=shape.name,
        kind=shape.kind,
        description=shape.description,
        unit=shape.unit,
        values=tuple(value for _, value in values),
        higher_is_better=shape.higher_is_better,
        aggregation=shape.aggregation,
        reset=ResetPeriod.NEVER if is_level else shape.reset,
    )


def read_entitlements(
    written: Mapping[str, Any],
    path: Path,
    features: Features,
    report: Report,
    *,
    may_add: bool,
) -> dict[str, Entitlement]:
    """By feature id, what a package grants by itself. Mistakes go to the report."""
    granted = {}
    for feature_id, value in written.items():
        at = (*path, feature_id)
        if feature_id not in features:
            report.add(at, "NOT_FOUND", f"there is no feature {feature_id!r}")
        elif (feature := features[feature_id]) is not None:
            entitlement = _entitlement(feature, value, at, report, may_add=may_add)
            if entitlement is not None:
                granted[feature_id] = entitlement
    return granted


def _entitlement(
    feature: Feature, value: Any, path: Path, report: Report, *, may_add: bool
) -> Entitlement | None:
    match feature.kind:
        case FeatureKind.METERED if isinstance(value, MeteredShape):
            return _metered(feature, value, path, report, may_add=may_add)
        case FeatureKind.BOOLEAN if isinstance(value, bool):
            return Entitlement(feature.id, GrantMode.SET, EntitlementValue(enabled=value))
        case FeatureKind.NUMBER if (number := number_value(value)) is not None:
            return Entitlement(feature.id, GrantMode.SET, EntitlementValue(number=number))
        case FeatureKind.ENUM if isinstance(value, str):
            if value in feature.values:
                return Entitlement(feature.id, GrantMode.SET, EntitlementValue(choice=value))
            words = f"{value[:64]!r} is not among the values: {', '.join(feature.values)}"
            report.add(path, "NOT_LISTED", words)
            return None
    report.add(path, "WRONG_KIND", f"{feature.id!r} is {_EXPECTED[feature.kind]}")
    return None


_EXPECTED = {
    FeatureKind.BOOLEAN: "boolean: true or false is expected",
    FeatureKind.NUMBER: "a number: a figure of at most 12 decimals is expected",
    FeatureKind.ENUM: "an enum: one of its values is expected",
    FeatureKind.METERED: "metered: a limit such as {limit: 5} or {unlimited: true} is expected",
}


def _metered(
    feature: Feature, shape: MeteredShape, path: Path, report: Report, *, may_add: bool
) -> Entitlement | None:
    forms = [shape.limit is not None, bool(shape.unlimited), shape.add is not None]
    if sum(forms) != 1:
        words = "exactly one of limit, unlimited: true and add is expected"
        report.add(path, "ONE_OF", words)
        return None
    if shape.add is not None and not may_add:
        words = "a plan sets its limits; only an add-on adds to one"
        report.add((*path, "add"), "ADD_ON_PLAN", words)
        return None
    warnings = list(present(shape.warn_at_percent, (*path, "warn_at_percent")))
    for (_, before), (at, percent) in pairwise(warnings):
        if percent <= before:
            report.add(at, "NOT_RISING", f"warnings rise: more than {before} is expected")
    mode = GrantMode.SET if shape.add is None else GrantMode.ADD
    warn_at_percent = tuple(percent for _, percent in warnings)
    if shape.unlimited:
        value = EntitlementValue(unlimited=True)
    else:
        limit = shape.limit if shape.add is None else shape.add
        value = EntitlementValue(
            limit=limit,
            unlimited=False,
            overage=shape.overage,
            warn_at_percent=warn_at_percent,
        )
    return Entitlement(feature.id, mode, value)


def read_trial(shape: TrialShape | None, path: Path, report: Report) -> TrialTerms | None:
    if shape is None:
        return None
    steps = list(present(shape.guide, (*path, "guide")))
    for at, step in steps:
        if (step.week - 1) * 7 >= shape.days:
            words = f"the trial is over before week {step.week}"
            report.add((*at, "week"), "GUIDE_AFTER_END", words)
    return TrialTerms(
        days=shape.days,
        at_end=shape.at_end,
        requires_payment_method=shape.requires_payment_method,
        guide=tuple(TrialStep(step.week, step.title, step.body) for _, step in steps),
    )
