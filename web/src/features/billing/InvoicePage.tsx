// SPDX-License-Identifier: Apache-2.0
import { Anchor, Button, Card, Group, SimpleGrid, Stack, Table, Text } from '@mantine/core';
import { useMutation } from '@tanstack/react-query';
import { Link } from '@tanstack/react-router';
import { formatMoney, formatNumber, formatPeriod, formatUnitPrice } from '@/ui/format';
import { useLocale, useTexts } from '@/ui/i18n';
import { BackIcon, DownloadIcon } from '@/ui/icons';
import { RowsLoading } from '@/ui/Loading';
import { PageHead } from '@/ui/PageHead';
import { ProblemAlert } from '@/ui/ProblemAlert';
import { RowsTable } from '@/ui/RowsTable';
import { CreditNotesCard } from './CreditNotesCard';
import { WhyButton } from './Explanation';
import { InvoiceFacts } from './InvoiceFacts';
import { downloadInvoice, type InvoiceDetail, useInvoice } from './invoices';
import { Sums } from './Sums';
import { invoiceTexts } from './texts';

/** One invoice: its lines, each with "Why this amount?", and what became of it. */
export function InvoicePage({ id }: { id: string }) {
  const own = useTexts(invoiceTexts);
  const { locale } = useLocale();
  const invoice = useInvoice(id);
  const download = useMutation({ mutationFn: downloadInvoice });
  const known = invoice.data;
  const period = known && formatPeriod(known.period_starts_at, known.period_ends_at, locale);
  return (
    <Stack gap="lg">
      <Anchor renderRoot={(props) => <Link to="/invoices" search={{}} {...props} />} size="sm">
        <BackIcon size={14} /> {own.all}
      </Anchor>
      <PageHead
        title={known?.number ?? own.invoice}
        {...(period && { hint: period })}
        action={
          known?.number && (
            <Button
              variant="light"
              leftSection={<DownloadIcon size={16} />}
              loading={download.isPending}
              onClick={() => download.mutate(known)}
            >
              {own.downloadNumber(known.number)}
            </Button>
          )
        }
      />
      <ProblemAlert error={invoice.error} retry={() => invoice.refetch()} />
      <ProblemAlert error={download.error} />
      {invoice.isPending && (
        <Card padding={0}>
          <RowsLoading />
        </Card>
      )}
      {known && (
        <>
          <Card padding={0}>
            <LinesTable invoice={known} />
          </Card>
          <Card>
            <SimpleGrid cols={{ base: 1, sm: 2 }} spacing="xl">
              <InvoiceFacts invoice={known} />
              <Sums invoice={known} />
            </SimpleGrid>
          </Card>
          <CreditNotesCard id={id} />
        </>
      )}
    </Stack>
  );
}

function LinesTable({ invoice }: { invoice: InvoiceDetail }) {
  const own = useTexts(invoiceTexts);
  const { locale } = useLocale();
  return (
    <RowsTable
      label={own.lines}
      columns={[
        { label: own.description },
        { label: own.quantity, numeric: true },
        { label: own.price, numeric: true },
        { label: own.amount, numeric: true },
      ]}
      actions={own.actions}
    >
      {invoice.lines.map((line) => (
        <Table.Tr key={line.position}>
          <Table.Td>
            <Text size="sm" fw={600}>
              {line.description}
            </Text>
          </Table.Td>
          <Table.Td ta="right" data-label={own.quantity}>
            {formatNumber(line.quantity, locale)}
          </Table.Td>
          <Table.Td ta="right" data-label={own.price}>
            {line.unit_price === null
              ? '–'
              : formatUnitPrice(line.unit_price, line.amount.currency, locale)}
          </Table.Td>
          <Table.Td ta="right" fw={600} data-label={own.amount}>
            {formatMoney(line.amount, locale)}
          </Table.Td>
          <Table.Td ta="right">
            <Group justify="flex-end">
              <WhyButton id={invoice.id} line={line} />
            </Group>
          </Table.Td>
        </Table.Tr>
      ))}
    </RowsTable>
  );
}
