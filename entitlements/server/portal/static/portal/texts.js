// Every text of the portal. To translate, replace the values.

export const texts = {
  name: "Your plan",
  overview: {
    title: "Overview",
    plan: "Plan",
    price: "Price",
    perMonth: "{amount} a month",
    perYear: "{amount} a year",
    renews: "Renews",
    ends: "Ends",
    trialEnds: "Trial until",
    addOns: "Also held",
    status: "Status",
    nothing: "You hold no plan yet.",
  },
  statuses: {
    INCOMPLETE: "Waiting for the first payment",
    TRIALING: "Trial",
    ACTIVE: "Active",
    PAST_DUE: "Payment overdue",
    UNPAID: "Unpaid",
    PAUSED: "Paused",
    CANCELED: "Ended",
  },
  ended: {
    title: "Please come again by the link",
    way: "You are not signed in here, or your session has ended. Go back to the application you came from, and open this page by its link again.",
    used: "This link was used before, or is older than five minutes. Go back to the application you came from, and open this page by its link again.",
    signedOut: "You are signed out",
    signedOutWay: "To come back, open this page by its link in the application you came from.",
  },
};
