// SPDX-License-Identifier: Apache-2.0
import { useQuery, useQueryClient } from '@tanstack/react-query';
import { api, type Schemas } from '@/api/client';
import { unwrap } from '@/api/problem';

export type Subscription = Schemas['SubscriptionShape'];
export type Preview = Schemas['PreviewView'];
export type Cost = Schemas['CostView'];
export type Change = Omit<Schemas['PreviewBody'], 'version'>;

const SUBSCRIPTIONS = ['subscriptions'];

/** What the organization subscribed to, newest first. */
export function useSubscriptions() {
  return useQuery({
    queryKey: SUBSCRIPTIONS,
    queryFn: () => unwrap(api.GET('/api/billing/subscriptions')),
  });
}

/** The product of a subscription, with the plans and add-ons that can be taken. */
export function useOffer(slug: string) {
  const params = { path: { slug } };
  return useQuery({
    queryKey: ['offer', slug],
    queryFn: () => unwrap(api.GET('/api/marketplace/products/{slug}', { params })),
  });
}

/** Call after a change: lists, the header and the dashboard are asked for anew. */
export function useSubscriptionsChanged() {
  const client = useQueryClient();
  return () =>
    Promise.all([
      client.invalidateQueries({ queryKey: SUBSCRIPTIONS }),
      client.invalidateQueries({ queryKey: ['dashboard'] }),
      client.invalidateQueries({ queryKey: ['invoices'] }),
    ]);
}

/** What a change would cost and do; nothing is changed by asking. */
export function previewChange(subscription: Subscription, change: Change): Promise<Preview> {
  const params = { path: { subscription_id: subscription.id } };
  const body = { ...change, version: subscription.version };
  return unwrap(api.POST('/api/billing/subscriptions/{subscription_id}/preview', { params, body }));
}

/** Makes the change for exactly what the preview said. */
export async function makeChange(
  subscription: Subscription,
  change: Change,
  preview: Preview,
): Promise<void> {
  const params = { path: { subscription_id: subscription.id } };
  const known = { version: subscription.version, preview_id: preview.id };
  const plan = change.plan ?? '';
  const at_once = change.at_once ?? false;
  const path = '/api/billing/subscriptions/{subscription_id}' as const;
  switch (change.change) {
    case 'upgrade':
      await unwrap(api.POST(`${path}/upgrade`, { params, body: { ...known, plan } }));
      return;
    case 'downgrade':
      await unwrap(api.POST(`${path}/downgrade`, { params, body: { ...known, plan, at_once } }));
      return;
    case 'cancel': {
      const body = { ...known, at_once, reason: change.reason ?? '' };
      await unwrap(api.POST(`${path}/cancel`, { params, body }));
      return;
    }
    case 'take_add_on': {
      const body = { ...known, add_on: change.add_on ?? '', quantity: change.quantity ?? 1 };
      await unwrap(api.POST(`${path}/add-ons`, { params, body }));
      return;
    }
    case 'leave_add_on': {
      const gone = { ...params.path, add_on_id: change.add_on_id ?? '' };
      await unwrap(
        api.DELETE(`${path}/add-ons/{add_on_id}`, {
          params: { path: gone, query: { version: subscription.version } },
        }),
      );
      return;
    }
    case 'reactivate':
      await unwrap(api.POST(`${path}/reactivate`, { params, body: known }));
      return;
    case 'pause':
      await unwrap(api.POST(`${path}/pause`, { params, body: known }));
      return;
    case 'resume':
      await unwrap(api.POST(`${path}/resume`, { params, body: known }));
  }
}

/** Lets what waits for the period's end not happen. */
export async function takeBack(subscription: Subscription): Promise<void> {
  const params = {
    path: { subscription_id: subscription.id },
    query: { version: subscription.version },
  };
  await unwrap(
    api.DELETE('/api/billing/subscriptions/{subscription_id}/scheduled-change', { params }),
  );
}
