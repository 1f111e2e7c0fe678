// SPDX-License-Identifier: Apache-2.0
import { Button, Card, Stack, Table, Text, Title } from '@mantine/core';
import { useMutation } from '@tanstack/react-query';
import { formatDate, formatMoney } from '@/ui/format';
import { useLocale, useTexts } from '@/ui/i18n';
import { DownloadIcon } from '@/ui/icons';
import { ProblemAlert } from '@/ui/ProblemAlert';
import { RowsTable } from '@/ui/RowsTable';
import { downloadCreditNote, useCreditNotes } from './invoices';
import { creditTexts, invoiceTexts } from './texts';

/** What was given back of an invoice; nothing where nothing was. */
export function CreditNotesCard({ id }: { id: string }) {
  const own = useTexts(creditTexts);
  const words = useTexts(invoiceTexts);
  const { locale } = useLocale();
  const notes = useCreditNotes(id);
  const download = useMutation({ mutationFn: downloadCreditNote });
  const rows = notes.data?.data ?? [];
  if (rows.length === 0) return <ProblemAlert error={notes.error} />;
  return (
    <Stack gap="sm">
      <Title order={2} size="h4">
        {own.title}
      </Title>
      <ProblemAlert error={download.error} />
      <Card padding={0}>
        <RowsTable
          label={own.title}
          columns={[
            { label: words.number },
            { label: words.issued },
            { label: own.reason },
            { label: own.becomes },
            { label: words.total, numeric: true },
          ]}
          actions={words.actions}
        >
          {rows.map((note) => (
            <Table.Tr key={note.id}>
              <Table.Td data-label={words.number}>
                <Text fw={600} size="sm" style={{ whiteSpace: 'nowrap' }}>
                  {note.number}
                </Text>
              </Table.Td>
              <Table.Td data-label={words.issued} style={{ whiteSpace: 'nowrap' }}>
                {formatDate(note.issued_on, locale)}
              </Table.Td>
              <Table.Td data-label={own.reason}>{note.reason}</Table.Td>
              <Table.Td data-label={own.becomes}>
                {note.credit.amount_minor > 0
                  ? own.kept
                  : note.refund.amount_minor > 0
                    ? own.refunded
                    : own.lowered}
              </Table.Td>
              <Table.Td ta="right" fw={600} data-label={words.total}>
                {formatMoney(note.total, locale)}
              </Table.Td>
              <Table.Td ta="right">
                <Button
                  size="compact-sm"
                  variant="light"
                  leftSection={<DownloadIcon size={16} />}
                  aria-label={words.downloadNumber(note.number)}
                  loading={download.isPending && download.variables.id === note.id}
                  onClick={() => download.mutate(note)}
                >
                  {words.download}
                </Button>
              </Table.Td>
            </Table.Tr>
          ))}
        </RowsTable>
      </Card>
    </Stack>
  );
}
