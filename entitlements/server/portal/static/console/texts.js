// Every text of the console. To translate, replace the values.

export const texts = {
  name: "Finance console",
  signIn: {
    title: "Sign in",
    way: "With an API key of support, pricing, finance or admin, or a token of your company's sign-in. It is kept where no script can read it, for 12 hours at most.",
    bearer: "Key or token",
    act: "Sign in",
  },
  proposals: {
    title: "Proposals",
    caption: "Proposed changes of the catalog, newest first",
    reason: "Reason",
    status: "Status",
    proposedBy: "Proposed by",
    createdAt: "Proposed",
    effectiveAt: "Effective",
    decidedBy: "Decided by",
  },
  statuses: { PROPOSED: "Open", APPROVED: "Approved", PUBLISHED: "Published", REJECTED: "Rejected", SUPERSEDED: "Superseded" },
  roles: { support: "Support", pricing: "Pricing", finance: "Finance", admin: "Admin" },
};
