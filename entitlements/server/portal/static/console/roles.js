// Who sees what: only so that nobody is offered what the API would refuse them. It decides.

const AUDITORS = ["finance", "admin"];

const MAY = {
  customers: ["support", ...AUDITORS],
  decideChanges: ["support", "admin"],
  decideProposals: AUDITORS,
  ledger: AUDITORS,
  migrations: AUDITORS,
  prices: ["pricing", ...AUDITORS],
  revenue: AUDITORS,
  staff: ["support", "pricing", ...AUDITORS],
};

/**
 * @param {string} role
 * @param {keyof MAY} what
 */
export const may = (role, what) => MAY[what].includes(role);
