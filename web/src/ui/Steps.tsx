// SPDX-License-Identifier: Apache-2.0
import { CheckIcon } from './icons';
import classes from './steps.module.css';

type Props = { label: string; steps: string[]; current: number };

/** Where one is in a short series of steps. */
export function Steps({ label, steps, current }: Props) {
  return (
    <ol className={classes.steps} aria-label={label}>
      {steps.map((step, place) => (
        <li
          key={step}
          className={classes.step}
          data-done={place < current || undefined}
          aria-current={place === current ? 'step' : undefined}
        >
          <span className={classes.mark} aria-hidden="true">
            {place < current ? <CheckIcon size={15} /> : place + 1}
          </span>
          {step}
        </li>
      ))}
    </ol>
  );
}
