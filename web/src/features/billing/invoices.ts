// SPDX-License-Identifier: Apache-2.0
import { useInfiniteQuery, useQuery } from '@tanstack/react-query';
import { api, type Schemas } from '@/api/client';
import { unwrap } from '@/api/problem';

export type Invoice = Schemas['InvoiceView'];
export type InvoiceDetail = Schemas['InvoiceDetail'];
export type CreditNote = Schemas['CreditNoteView'];
export type Explanation = Schemas['ExplanationView'];
export type Line = Schemas['LineView'];
export type Upcoming = Schemas['UpcomingInvoice'];
export type Wallet = Schemas['WalletView'];

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

/** One invoice with its lines. */
export function useInvoice(id: string) {
  const params = { path: { invoice_id: id } };
  return useQuery({
    queryKey: ['invoice', id],
    queryFn: () => unwrap(api.GET('/api/billing/invoices/{invoice_id}', { params })),
  });
}

/** What was given back of an invoice. */
export function useCreditNotes(id: string) {
  const params = { path: { invoice_id: id } };
  return useQuery({
    queryKey: ['credit-notes', id],
    queryFn: () => unwrap(api.GET('/api/billing/invoices/{invoice_id}/credit-notes', { params })),
  });
}

/** Why a line asks what it asks; asked for when somebody opens it. */
export function useExplanation(id: string, position: number) {
  const params = { path: { invoice_id: id, position } };
  return useQuery({
    queryKey: ['explanation', id, position],
    queryFn: () =>
      unwrap(api.GET('/api/billing/invoices/{invoice_id}/lines/{position}/explain', { params })),
  });
}

/** What the running periods would cost now, and at their end. */
export function useUpcoming() {
  return useQuery({
    queryKey: ['upcoming'],
    queryFn: () => unwrap(api.GET('/api/billing/invoices/upcoming')),
  });
}

/** What the next invoices are paid out of. */
export function useWallet() {
  return useQuery({
    queryKey: ['wallet'],
    queryFn: () => unwrap(api.GET('/api/billing/wallet')),
  });
}

/** The coupons that count for the organization. */
export function useCoupons() {
  return useQuery({
    queryKey: ['coupons'],
    queryFn: () => unwrap(api.GET('/api/billing/coupons')),
  });
}

export function redeemCoupon(code: string) {
  return unwrap(api.POST('/api/billing/coupons', { body: { code } }));
}

export function topUp(amountMinor: number, currency: string) {
  const body = { amount: { amount_minor: amountMinor, currency } };
  return unwrap(api.POST('/api/billing/wallet/top-up', { body }));
}

/** Fetches the PDF with the session's token and hands it to the browser as a file. */
export async function downloadInvoice(invoice: Invoice): Promise<void> {
  const params = { path: { invoice_id: invoice.id } };
  const call = api.GET('/api/billing/invoices/{invoice_id}/pdf', { params, parseAs: 'blob' });
  save((await unwrap(call)) as Blob, `${invoice.number ?? invoice.id}.pdf`);
}

/** The same of a credit note. */
export async function downloadCreditNote(note: CreditNote): Promise<void> {
  const params = { path: { credit_note_id: note.id } };
  const path = '/api/billing/credit-notes/{credit_note_id}/pdf';
  save((await unwrap(api.GET(path, { params, parseAs: 'blob' }))) as Blob, `${note.number}.pdf`);
}

function save(content: Blob, name: string) {
  const url = URL.createObjectURL(content);
  const link = document.createElement('a');
  link.href = url;
  link.download = name;
  link.click();
  URL.revokeObjectURL(url);
}
