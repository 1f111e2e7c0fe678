// SPDX-License-Identifier: Apache-2.0
import { useInfiniteQuery, useQueryClient } from '@tanstack/react-query';
import { api, type Schemas } from '@/api/client';
import { unwrap } from '@/api/problem';

export type Consumer = Schemas['ConsumerShape'];

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
