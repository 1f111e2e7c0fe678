// SPDX-License-Identifier: Apache-2.0
import { useTexts } from '@/ui/i18n';
import { StateBadge, type Tone } from '@/ui/StateBadge';
import { stateTexts } from '@/ui/states';

const TONES: Record<string, Tone> = {
  Trial: 'note',
  Active: 'good',
  PastDue: 'warn',
  Suspended: 'bad',
  Paused: 'warn',
};

/** A subscription's state in a word. */
export function SubscriptionStatus({ status }: { status: string }) {
  const names: Record<string, string> = useTexts(stateTexts);
  return <StateBadge tone={TONES[status] ?? 'quiet'} label={names[status] ?? status} />;
}
