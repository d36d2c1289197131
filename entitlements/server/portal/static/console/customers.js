// Finding a customer.

import { h, table } from "../shared/elements.js";
import * as format from "../shared/format.js";
import { texts as shared } from "../shared/texts.js";
import { field, filters } from "./forms.js";
import { paged } from "./loading.js";
import { texts } from "./texts.js";

const PAGE = 50;
const said = texts.customers;

export async function customers(api, { query, go, href }) {
  const search = query.get("search") || null;
  const asked = h("input", { type: "search", value: search, maxlength: 255, spellcheck: "false", autocapitalize: "off" });
  const form = filters([field(said.search, asked)], said.find, () => go(`customers?${new URLSearchParams({ search: asked.value.trim() })}`));
  const read = async (after) => (await api.ask("Customers", { search, first: PAGE, after })).customers;
  const { place } = await paged(read, (found) => table(said.caption, [said.id, said.name, said.email, said.currency, said.since], found.map((each) => row(each, href))));
  return [form, place];
}

function row({ id, name, email, currency, createdAt }, href) {
  return [h("a", { href: href(`customers/${encodeURIComponent(id)}`) }, id), name ?? shared.none, email ?? shared.none, currency.toUpperCase(), format.date(createdAt)];
}
