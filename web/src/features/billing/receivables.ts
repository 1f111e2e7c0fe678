// SPDX-License-Identifier: Apache-2.0
import { useInfiniteQuery, useQueryClient } from '@tanstack/react-query';
import { api, type Schemas } from '@/api/client';
import { unwrap } from '@/api/problem';

export type Receivable = Schemas['AdminInvoiceView'];
export type Deed = 'pay' | 'writeOff' | 'send';

const RECEIVABLES = ['receivables'];

/** The invoices of all organizations, newest first, a page at a time. */
export function useReceivables() {
  return useInfiniteQuery({
    queryKey: RECEIVABLES,
    queryFn: ({ pageParam }) =>
      unwrap(
        api.GET('/api/admin/billing/invoices', {
          params: { query: { ...(pageParam && { cursor: pageParam }) } },
        }),
      ),
    initialPageParam: '',
    getNextPageParam: (page) => page.next_cursor,
  });
}

/** Does what can be done about an invoice; `said` is the payment's reference, or the reason. */
export function useReceivableDeed() {
  const client = useQueryClient();
  return async (deed: Deed, invoice: Receivable, said: string) => {
    const params = { path: { invoice_id: invoice.id } };
    const path = '/api/admin/billing/invoices/{invoice_id}' as const;
    if (deed === 'pay') {
      const body = { reference: said || null };
      await unwrap(api.POST(`${path}/mark-paid`, { params, body }));
    }
    if (deed === 'writeOff') {
      await unwrap(api.POST(`${path}/write-off`, { params, body: { reason: said } }));
    }
    if (deed === 'send') await unwrap(api.POST(`${path}/finalize`, { params }));
    await client.invalidateQueries({ queryKey: RECEIVABLES });
  };
}
