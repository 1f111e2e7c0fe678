// SPDX-License-Identifier: Apache-2.0
import { Text } from '@mantine/core';
import { type KeyboardEvent, useState } from 'react';
import classes from './chart.module.css';

/** One bar: how high it is, how much of that is bad, and what it says in words. */
export type Bar = { key: string; label: string; value: number; bad?: number; text: string };

type Props = {
  label: string;
  bars: Bar[];
  top: string;
  legend?: { good: string; bad: string };
};

const STEPS: Record<string, number> = { ArrowRight: 1, ArrowLeft: -1, PageUp: 7, PageDown: -7 };

/**
 * Bars over time. The chosen one is told in words below: by pointing at it, by touching it, or with
 * the arrow keys. `top` is what the highest bar amounts to.
 */
export function BarChart({ label, bars, top, legend }: Props) {
  const [chosen, choose] = useState<number | null>(null);
  const last = bars.length - 1;
  const at = Math.min(chosen ?? last, last);
  const highest = Math.max(1, ...bars.map((bar) => bar.value));
  const onKeyDown = (event: KeyboardEvent) => {
    const ends: Record<string, number> = { Home: 0, End: last };
    const to = ends[event.key] ?? (STEPS[event.key] ? at + (STEPS[event.key] ?? 0) : null);
    if (to === null) return;
    event.preventDefault();
    choose(Math.max(0, Math.min(last, to)));
  };
  return (
    <div>
      <Text size="xs" c="dimmed" className={classes.top ?? ''} component="div">
        {legend && (
          <span className={classes.legend}>
            <span className={classes.good}>{legend.good}</span>
            <span className={classes.worse}>{legend.bad}</span>
          </span>
        )}
        {top}
      </Text>
      <div
        className={classes.bars}
        role="slider"
        tabIndex={0}
        aria-label={label}
        aria-valuemin={0}
        aria-valuemax={Math.max(last, 1)}
        aria-valuenow={at}
        aria-valuetext={bars[at]?.text ?? ''}
        onKeyDown={onKeyDown}
        onMouseLeave={() => choose(null)}
      >
        {bars.map((bar, number) => (
          <div
            key={bar.key}
            className={classes.column}
            data-chosen={number === at && chosen !== null ? true : undefined}
            onPointerEnter={() => choose(number)}
          >
            <div className={classes.bar} style={{ height: share(bar.value, highest) }}>
              <div className={classes.bad} style={{ height: share(bar.bad ?? 0, bar.value) }} />
            </div>
          </div>
        ))}
      </div>
      <div className={classes.ends} aria-hidden="true">
        <span>{bars[0]?.label}</span>
        <span>{bars[Math.floor(last / 2)]?.label}</span>
        <span>{bars[last]?.label}</span>
      </div>
      <Text size="sm" mt="xs" className={classes.told ?? ''}>
        {bars[at]?.text}
      </Text>
    </div>
  );
}

/** A share of the whole, and a sliver of whatever is not nothing. */
function share(part: number, whole: number): string {
  return part <= 0 || whole <= 0 ? '0' : `${Math.max(2, (part / whole) * 100)}%`;
}
