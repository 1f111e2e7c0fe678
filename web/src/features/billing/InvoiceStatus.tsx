// SPDX-License-Identifier: Apache-2.0
import { useTexts } from '@/ui/i18n';
import { StateBadge, type Tone } from '@/ui/StateBadge';
import { invoiceStatusTexts } from './texts';

const TONES: Record<string, Tone> = { Sent: 'note', Paid: 'good', Overdue: 'bad' };

export function InvoiceStatus({ status }: { status: string }) {
  const statuses: Record<string, string> = useTexts(invoiceStatusTexts);
  return <StateBadge tone={TONES[status] ?? 'quiet'} label={statuses[status] ?? status} />;
}
