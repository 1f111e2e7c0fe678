// SPDX-License-Identifier: Apache-2.0
import { Badge } from '@mantine/core';

export type Tone = 'good' | 'note' | 'warn' | 'bad' | 'quiet';

const COLORS: Record<Tone, string> = {
  good: 'teal',
  note: 'sky',
  warn: 'yellow',
  bad: 'red',
  quiet: 'gray',
};

/** A state in a word; the colour only repeats it. */
export function StateBadge({ tone, label }: { tone: Tone; label: string }) {
  return (
    <Badge variant="light" color={COLORS[tone]} tt="none" fw={600} miw="max-content">
      {label}
    </Badge>
  );
}
