// Mercurius with its JIT: the same subset of the schema, the same data in a Map.
import { readFileSync } from 'node:fs'
import Fastify from 'fastify'
import mercurius from 'mercurius'

const [port, dataFile] = process.argv.slice(2)
const data = JSON.parse(readFileSync(dataFile))
const customers = new Map(
  Object.entries(data.customers).map(([id, c]) => [
    id,
    { revision: c.revision, features: new Map(Object.entries(c.features)) }
  ])
)
const tokens = new Map(Object.entries(data.tokens))

function decide (customer, featureId) {
  if (customer === undefined) {
    return { featureId, allowed: false, reason: 'CUSTOMER_NOT_FOUND', value: null, revision: '0' }
  }
  const value = customer.features.get(featureId)
  if (value === undefined) {
    return { featureId, allowed: false, reason: 'NOT_ENTITLED', value: null, revision: customer.revision }
  }
  return { featureId, allowed: value.enabled !== false, reason: null, value, revision: customer.revision }
}

const app = Fastify()
app.register(mercurius, {
  schema: readFileSync(new URL('schema.graphql', import.meta.url), 'utf8'),
  resolvers: {
    Query: {
      access: (_, { featureId }, { customer }) => decide(customer, featureId),
      accessMany: (_, { checks }, { customer }) => checks.map(c => decide(customer, c.featureId))
    }
  },
  context: request => ({
    customer: customers.get(tokens.get(request.headers.authorization?.slice(7)))
  }),
  jit: 1
})
await app.listen({ port: Number(port), host: '127.0.0.1' })
