// An ordinary front end: @urql/core for a query and a mutation, graphql-ws for a subscription.
import { Client, cacheExchange, fetchExchange, subscriptionExchange } from "@urql/core";
import { createClient } from "graphql-ws";
import { WebSocket } from "ws";

const [host, bearer] = process.argv.slice(2);
const authorization = `Bearer ${bearer}`;
const socket = createClient({ url: `ws://${host}/graphql`, connectionParams: { authorization }, webSocketImpl: WebSocket });
const client = new Client({
  url: `http://${host}/graphql`,
  preferGetMethod: false,
  fetchOptions: { headers: { authorization } },
  exchanges: [
    cacheExchange,
    fetchExchange,
    subscriptionExchange({
      forwardSubscription: (operation) => ({
        subscribe: (sink) => ({
          unsubscribe: socket.subscribe({ ...operation, query: operation.query ?? "" }, sink),
        }),
      }),
    }),
  ],
});
const said = ({ data, error }) => {
  if (error) throw error;
  console.log(JSON.stringify(data));
};

said(await client.query("query Role { viewer { role customerId } }", {}));
said(
  await client.query(
    "query Role { viewer { role } }",
    {},
    { preferGetMethod: "force", requestPolicy: "network-only" },
  ),
);
await new Promise((resolve, reject) => {
  const changed = "subscription { entitlementsChanged { revision } }";
  let heard = 0;
  const { unsubscribe } = client.subscription(changed, {}).subscribe(async (result) => {
    try {
      said(result);
      if (++heard === 2) {
        unsubscribe();
        resolve();
        return;
      }
      const buy = `mutation Buy($input: PurchaseAddOnInput!) { purchaseAddOn(input: $input) {
        __typename ... on ChangeCommitted { change { status } } } }`;
      const input = { addOnId: "extra-calls", idempotencyKey: "from-node" };
      said(await client.mutation(buy, { input }));
    } catch (error) {
      reject(error);
    }
  });
});
await socket.dispose();
