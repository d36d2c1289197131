// The audit suite of graphql-http against one URL: a line of JSON for each audit that is not passed,
// then how many there were.
import { auditServer } from "graphql-http";

const [url, bearer] = process.argv.slice(2);
const authorized = (input, init = {}) =>
  fetch(input, { ...init, headers: { ...init.headers, authorization: `Bearer ${bearer}` } });

const results = await auditServer({ url, fetchFn: authorized });
for (const { id, name, status, reason } of results)
  if (status !== "ok") console.log(JSON.stringify({ id, name, status, reason }));
console.log(JSON.stringify({ audits: results.length }));
