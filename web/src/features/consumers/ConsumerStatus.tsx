// SPDX-License-Identifier: Apache-2.0
import { useTexts } from '@/ui/i18n';
import { StateBadge, type Tone } from '@/ui/StateBadge';
import { stateTexts } from '@/ui/states';
import type { Consumer } from './consumers';
import { consumerTexts } from './texts';

const TONES: Record<string, Tone> = {
  Active: 'good',
  Trial: 'note',
  PastDue: 'warn',
  Suspended: 'bad',
};

export function ConsumerStatus({ consumer }: { consumer: Consumer }) {
  const own = useTexts(consumerTexts);
  const statuses: Record<string, string> = useTexts(stateTexts);
  const { banned, status } = consumer;
  if (banned) return <StateBadge tone="bad" label={own.banned} />;
  return <StateBadge tone={TONES[status] ?? 'quiet'} label={statuses[status] ?? status} />;
}
