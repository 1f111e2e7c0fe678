// SPDX-License-Identifier: Apache-2.0
import { Text } from '@mantine/core';
import type { ReactNode } from 'react';
import classes from './page.module.css';

type Props = { icon: ReactNode; title: string; hint: string; action?: ReactNode };

/** What an empty list says: what belongs here, and what to do next. */
export function EmptyState({ icon, title, hint, action }: Props) {
  return (
    <div className={classes.empty}>
      <div className={classes.emptyIcon}>{icon}</div>
      <Text fw={600}>{title}</Text>
      <Text c="dimmed" size="sm" maw={420}>
        {hint}
      </Text>
      {action}
    </div>
  );
}
