// SPDX-License-Identifier: Apache-2.0
import { useInfiniteQuery, useQuery, useQueryClient } from '@tanstack/react-query';
import { api, idempotencyKey, type Schemas } from '@/api/client';
import { unwrap } from '@/api/problem';
import type { QuotaPeriod } from '@/ui/meters';

export type Consumer = Schemas['ConsumerShape'];
export type Detail = Schemas['ConsumerDetail'];
export type Terms = Schemas['ContractShape'];
export type Quota = Detail['quotas'][number];

const CONSUMERS = ['consumers'];

/** Who subscribed to the organization's products, newest first, a page at a time. */
export function useConsumers() {
  return useInfiniteQuery({
    queryKey: CONSUMERS,
    queryFn: ({ pageParam }) =>
      unwrap(
        api.GET('/api/provider/consumers', {
          params: { query: { ...(pageParam && { cursor: pageParam }) } },
        }),
      ),
    initialPageParam: '',
    getNextPageParam: (page) => page.next_cursor,
  });
}

/** One of them, with what was agreed and how the quotas stand. */
export function useConsumer(subscription_id: string) {
  return useQuery({
    queryKey: [...CONSUMERS, subscription_id],
    queryFn: () =>
      unwrap(
        api.GET('/api/provider/consumers/{subscription_id}', {
          params: { path: { subscription_id } },
        }),
      ),
  });
}

/** The plans that a subscriber of a product can be put on. */
export function usePlansOf(slug: string) {
  return useQuery({
    queryKey: ['plans-of', slug],
    queryFn: async () => {
      const query = { limit: 200 };
      const products = await unwrap(api.GET('/api/provider/products', { params: { query } }));
      const product_id = products.data.find((one) => one.slug === slug)?.id ?? '';
      const params = { path: { product_id }, query };
      const path = '/api/provider/products/{product_id}/plans' as const;
      const plans = await unwrap(api.GET(path, { params }));
      return plans.data.filter((plan) => plan.status === 'active').sort((a, b) => a.rank - b.rank);
    },
  });
}

/** Call after something was done about a consumer. */
export function useConsumersChanged() {
  const client = useQueryClient();
  return () => client.invalidateQueries({ queryKey: CONSUMERS });
}

const one = (consumer: Consumer) => ({ path: { subscription_id: consumer.id } });

/** Ends this subscription at once. */
export async function revoke(consumer: Consumer, reason: string): Promise<void> {
  const body = { reason, version: consumer.version };
  await unwrap(
    api.POST('/api/provider/consumers/{subscription_id}/revoke', { params: one(consumer), body }),
  );
}

/** Ends all its subscriptions at once, and sells it no more. */
export async function ban(consumer: Consumer, reason: string): Promise<void> {
  await unwrap(
    api.POST('/api/provider/consumers/{subscription_id}/ban', {
      params: one(consumer),
      body: { reason },
    }),
  );
}

/** Sells to it again. */
export async function readmit(consumer: Consumer): Promise<void> {
  await unwrap(
    api.DELETE('/api/provider/consumers/{subscription_id}/ban', { params: one(consumer) }),
  );
}

/** Puts it on another plan, now or when its period ends. */
export async function setPlan(consumer: Consumer, plan: string, at_once: boolean): Promise<void> {
  const body = { plan, at_once, version: consumer.version };
  const path = '/api/provider/consumers/{subscription_id}/plan' as const;
  await unwrap(api.POST(path, { params: one(consumer), body }));
}

/** Agrees other terms with it, from now on. */
export async function setContract(consumer: Consumer, terms: Terms): Promise<void> {
  const body = { terms, version: consumer.version };
  const path = '/api/provider/consumers/{subscription_id}/contract' as const;
  await unwrap(api.POST(path, { params: one(consumer), body }));
}

/** Lets a quota begin anew. */
export async function resetQuota(consumer: Consumer, quota: Quota, reason: string): Promise<void> {
  const body = { reason, meter: quota.meter, period: quota.period as QuotaPeriod };
  const path = '/api/provider/consumers/{subscription_id}/reset-quota' as const;
  await unwrap(api.POST(path, { params: keyed(consumer), body }));
}

/** Gives units beyond a quota until an instant. */
export async function increaseQuota(
  consumer: Consumer,
  quota: Quota,
  given: { reason: string; units: number; ends_at: string },
): Promise<void> {
  const body = { ...given, meter: quota.meter, period: quota.period as QuotaPeriod };
  const path = '/api/provider/consumers/{subscription_id}/increase-quota' as const;
  await unwrap(api.POST(path, { params: keyed(consumer), body }));
}

function keyed(consumer: Consumer) {
  return { ...one(consumer), header: { 'Idempotency-Key': idempotencyKey() } };
}
