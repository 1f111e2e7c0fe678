// SPDX-License-Identifier: Apache-2.0
import { useTexts } from '@/ui/i18n';
import { StateBadge, type Tone } from '@/ui/StateBadge';
import type { Invoice } from './invoices';
import { invoiceStatusTexts } from './texts';

const TONES: Record<string, Tone> = { Sent: 'note', Paid: 'good', Overdue: 'bad' };

type Props = { invoice: Pick<Invoice, 'status' | 'payment_state'> };

/** How an invoice stands; one that was given up says so, whatever its due date. */
export function InvoiceStatus({ invoice }: Props) {
  const statuses: Record<string, string> = useTexts(invoiceStatusTexts);
  const status = invoice.payment_state === 'WrittenOff' ? 'WrittenOff' : invoice.status;
  return <StateBadge tone={TONES[status] ?? 'quiet'} label={statuses[status] ?? status} />;
}
