// SPDX-License-Identifier: Apache-2.0
import { Group, Text } from '@mantine/core';
import type { ReactNode } from 'react';
import { PageTitle } from './PageTitle';

type Props = { title: string; hint?: string; action?: ReactNode };

/** The top of a page: its title, one sentence about it, and the page's main action. */
export function PageHead({ title, hint, action }: Props) {
  return (
    <Group justify="space-between" align="flex-end" gap="md">
      <div>
        <PageTitle>{title}</PageTitle>
        {hint && (
          <Text c="dimmed" mt={6} maw={720} style={{ textWrap: 'pretty' }}>
            {hint}
          </Text>
        )}
      </div>
      {action}
    </Group>
  );
}
