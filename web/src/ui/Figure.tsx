// SPDX-License-Identifier: Apache-2.0
import { Card, Text } from '@mantine/core';
import type { ReactNode } from 'react';
import classes from './page.module.css';

type Props = { label: string; value: string; children?: ReactNode };

/** One number with its name, and what is to be said of it. */
export function Figure({ label, value, children }: Props) {
  return (
    <Card component="section" aria-label={label} padding="md">
      <Text size="sm" c="dimmed" fw={500}>
        {label}
      </Text>
      <p className={classes.number}>{value}</p>
      {children && (
        <Text size="sm" c="dimmed" component="div">
          {children}
        </Text>
      )}
    </Card>
  );
}
