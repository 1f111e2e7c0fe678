// SPDX-License-Identifier: Apache-2.0
import { texts, useTexts } from '@/ui/i18n';
import { StateBadge, type Tone } from '@/ui/StateBadge';

const statusTexts = texts(
  {
    Trial: 'Trial',
    Active: 'Active',
    PastDue: 'Payment overdue',
    Suspended: 'Suspended',
    Cancelled: 'Cancelled',
    Paused: 'Paused',
    Expired: 'Expired',
  },
  {
    Trial: 'Proefperiode',
    Active: 'Actief',
    PastDue: 'Betaling te laat',
    Suspended: 'Opgeschort',
    Cancelled: 'Opgezegd',
    Paused: 'Gepauzeerd',
    Expired: 'Afgelopen',
  },
);

const TONES: Record<string, Tone> = {
  Trial: 'note',
  Active: 'good',
  PastDue: 'warn',
  Suspended: 'bad',
  Paused: 'warn',
};

/** A subscription's state in a word. */
export function SubscriptionStatus({ status }: { status: string }) {
  const names: Record<string, string> = useTexts(statusTexts);
  return <StateBadge tone={TONES[status] ?? 'quiet'} label={names[status] ?? status} />;
}
