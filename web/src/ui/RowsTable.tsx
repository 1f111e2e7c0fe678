// SPDX-License-Identifier: Apache-2.0
import { Table, VisuallyHidden } from '@mantine/core';
import type { ReactNode } from 'react';
import classes from './rows.module.css';

export type Column = { label: string; numeric?: boolean };

type Props = { label: string; columns: Column[]; actions?: string; children: ReactNode };

/**
 * A table that becomes a list of cards where it has no room. Each cell carries its column's name
 * as `data-label`; with `actions` the last column holds the row's actions.
 */
export function RowsTable({ label, columns, actions, children }: Props) {
  return (
    <div className={classes.frame}>
      <Table
        verticalSpacing="sm"
        horizontalSpacing="lg"
        aria-label={label}
        className={classes.table ?? ''}
      >
        <Table.Thead>
          <Table.Tr>
            {columns.map((column) => (
              <Table.Th key={column.label} ta={column.numeric ? 'right' : 'left'}>
                {column.label}
              </Table.Th>
            ))}
            {actions && (
              <Table.Th>
                <VisuallyHidden>{actions}</VisuallyHidden>
              </Table.Th>
            )}
          </Table.Tr>
        </Table.Thead>
        <Table.Tbody>{children}</Table.Tbody>
      </Table>
    </div>
  );
}
