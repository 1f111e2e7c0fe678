// SPDX-License-Identifier: Apache-2.0
import { useInfiniteQuery } from '@tanstack/react-query';
import { api, type Schemas } from '@/api/client';
import { unwrap } from '@/api/problem';

export type Invoice = Schemas['InvoiceView'];

/** The organization's invoices, newest first, a page at a time. */
export function useInvoices() {
  return useInfiniteQuery({
    queryKey: ['invoices'],
    queryFn: ({ pageParam }) =>
      unwrap(
        api.GET('/api/billing/invoices', {
          params: { query: { ...(pageParam && { cursor: pageParam }) } },
        }),
      ),
    initialPageParam: '',
    getNextPageParam: (page) => page.next_cursor,
  });
}

/** Fetches the PDF with the session's token and hands it to the browser as a file. */
export async function downloadInvoice(invoice: Invoice): Promise<void> {
  const params = { path: { invoice_id: invoice.id } };
  const call = api.GET('/api/billing/invoices/{invoice_id}/pdf', { params, parseAs: 'blob' });
  const url = URL.createObjectURL((await unwrap(call)) as Blob);
  const link = document.createElement('a');
  link.href = url;
  link.download = `${invoice.number ?? invoice.id}.pdf`;
  link.click();
  URL.revokeObjectURL(url);
}
