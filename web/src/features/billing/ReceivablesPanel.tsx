// SPDX-License-Identifier: Apache-2.0
import { Button, Card, Group, Stack, Table, Text, VisuallyHidden } from '@mantine/core';
import { useState } from 'react';
import { useSession } from '@/api/session';
import { EmptyState } from '@/ui/EmptyState';
import { formatDate, formatMoney } from '@/ui/format';
import { useLocale, useTexts } from '@/ui/i18n';
import { InvoiceIcon } from '@/ui/icons';
import { RowsLoading } from '@/ui/Loading';
import { PageHead } from '@/ui/PageHead';
import { ProblemAlert } from '@/ui/ProblemAlert';
import { RowsTable } from '@/ui/RowsTable';
import { wordTexts } from '@/ui/words';
import { InvoiceStatus } from './InvoiceStatus';
import { ReceivableDialog } from './ReceivableDialog';
import { type Deed, type Receivable, useReceivables } from './receivables';
import { receivableTexts } from './receivableTexts';
import { invoiceTexts } from './texts';

type Wish = { deed: Deed; invoice: Receivable };

/** What everybody was billed: what came in, what is due, what waits for a person. */
export function ReceivablesPanel() {
  const own = useTexts(receivableTexts);
  const words = useTexts(wordTexts);
  const invoices = useReceivables();
  const [wish, setWish] = useState<Wish | null>(null);
  const [said, setSaid] = useState('');
  const rows = invoices.data?.pages.flatMap((page) => page.data) ?? [];
  return (
    <Stack gap="lg">
      <PageHead title={own.title} hint={own.hint} />
      <VisuallyHidden aria-live="polite">{said}</VisuallyHidden>
      <ProblemAlert error={invoices.error} retry={() => invoices.refetch()} />
      <Card padding={0}>
        {invoices.isPending && <RowsLoading />}
        {invoices.isSuccess && rows.length === 0 && (
          <EmptyState icon={<InvoiceIcon size={28} />} title={own.none} hint={own.noneHint} />
        )}
        {rows.length > 0 && (
          <ReceivablesTable
            invoices={rows}
            onDeed={(deed, invoice) => setWish({ deed, invoice })}
          />
        )}
      </Card>
      {invoices.hasNextPage && (
        <Button
          variant="default"
          loading={invoices.isFetchingNextPage}
          onClick={() => invoices.fetchNextPage()}
        >
          {words.more}
        </Button>
      )}
      {wish && <ReceivableDialog {...wish} onClose={() => setWish(null)} onDone={setSaid} />}
    </Stack>
  );
}

type TableProps = {
  invoices: Receivable[];
  onDeed: (deed: Deed, invoice: Receivable) => void;
};

function ReceivablesTable({ invoices, onDeed }: TableProps) {
  const own = useTexts(receivableTexts);
  const words = useTexts(invoiceTexts);
  const { locale } = useLocale();
  return (
    <RowsTable
      label={own.title}
      columns={[
        { label: words.number },
        { label: own.organization },
        { label: words.due },
        { label: words.status },
        { label: words.total, numeric: true },
      ]}
      actions={words.actions}
    >
      {invoices.map((invoice) => (
        <Table.Tr key={invoice.id}>
          <Table.Td data-label={words.number}>
            <Text fw={600} size="sm" style={{ whiteSpace: 'nowrap' }}>
              {invoice.number ?? words.draft}
            </Text>
          </Table.Td>
          <Table.Td data-label={own.organization}>{invoice.organization}</Table.Td>
          <Table.Td data-label={words.due} style={{ whiteSpace: 'nowrap' }}>
            {invoice.due_on ? formatDate(invoice.due_on, locale) : '–'}
          </Table.Td>
          <Table.Td data-label={words.status}>
            <div>
              <InvoiceStatus invoice={invoice} />
              {invoice.status === 'Draft' && invoice.parked_reason && (
                <Text size="xs" c="dimmed">
                  {own[invoice.parked_reason]}
                </Text>
              )}
            </div>
          </Table.Td>
          <Table.Td ta="right" fw={600} data-label={words.total}>
            {formatMoney(invoice.total, locale)}
          </Table.Td>
          <Table.Td ta="right">
            <Deeds invoice={invoice} onDeed={onDeed} />
          </Table.Td>
        </Table.Tr>
      ))}
    </RowsTable>
  );
}

type DeedsProps = { invoice: Receivable; onDeed: TableProps['onDeed'] };

/** Only the operator's admins change invoices; its support reads them. */
function Deeds({ invoice, onDeed }: DeedsProps) {
  const own = useTexts(receivableTexts);
  const may = useSession()?.user.platform_role === 'admin';
  const open = invoice.status === 'Sent' || invoice.status === 'Overdue';
  const deeds: Deed[] = invoice.status === 'Draft' ? ['send'] : [];
  if (open && invoice.payment_state !== 'WrittenOff') deeds.push('pay', 'writeOff');
  if (!may || deeds.length === 0) return null;
  return (
    <Group gap={8} justify="flex-end">
      {deeds.map((deed) => (
        <Button
          key={deed}
          size="compact-sm"
          variant="light"
          color={deed === 'writeOff' ? 'red' : 'sky'}
          aria-label={own.of(own[deed], invoice.number ?? invoice.organization)}
          onClick={() => onDeed(deed, invoice)}
        >
          {own[deed]}
        </Button>
      ))}
    </Group>
  );
}
