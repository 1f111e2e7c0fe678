// SPDX-License-Identifier: Apache-2.0
import { api } from '@/api/client';
import { unwrap } from '@/api/problem';

/**
 * Takes a plan on invoice; answers the secret of the key that comes with it. While the
 * organization is Pending it is a choice: accepting the terms starts it, and there is no key yet.
 */
export async function choosePlan(product: string, plan: string): Promise<string | null> {
  const body = { product, plan, payment: 'invoice' as const };
  const started = await unwrap(api.POST('/api/billing/subscription', { body }));
  return started.api_key?.secret ?? null;
}
