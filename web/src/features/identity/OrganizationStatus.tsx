// SPDX-License-Identifier: Apache-2.0
import { texts, useTexts } from '@/ui/i18n';
import { StateBadge, type Tone } from '@/ui/StateBadge';

const statusTexts = texts(
  { Pending: 'Not yet active', Active: 'Active', Suspended: 'Suspended', Cancelled: 'Closed' },
  { Pending: 'Nog niet actief', Active: 'Actief', Suspended: 'Opgeschort', Cancelled: 'Gesloten' },
);

const TONES: Record<string, Tone> = { Pending: 'warn', Active: 'good', Suspended: 'bad' };

/** An organization's state in a word. */
export function OrganizationStatus({ status }: { status: string }) {
  const names: Record<string, string> = useTexts(statusTexts);
  return <StateBadge tone={TONES[status] ?? 'quiet'} label={names[status] ?? status} />;
}
