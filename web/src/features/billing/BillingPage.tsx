// SPDX-License-Identifier: Apache-2.0
import { useSearch } from '@tanstack/react-router';
import { InvoicePage } from './InvoicePage';
import { InvoicesPanel } from './InvoicesPanel';

/** The invoices, or the one that the address names. */
export function BillingPage() {
  const { invoice } = useSearch({ strict: false });
  return invoice ? <InvoicePage id={invoice} /> : <InvoicesPanel />;
}
