// SPDX-License-Identifier: Apache-2.0
import { Anchor, Button, Card, SimpleGrid, Stack, Table } from '@mantine/core';
import { useMutation } from '@tanstack/react-query';
import { Link } from '@tanstack/react-router';
import { EmptyState } from '@/ui/EmptyState';
import { formatDate, formatMoney } from '@/ui/format';
import { useLocale, useTexts } from '@/ui/i18n';
import { DownloadIcon, InvoiceIcon } from '@/ui/icons';
import { RowsLoading } from '@/ui/Loading';
import { PageHead } from '@/ui/PageHead';
import { ProblemAlert } from '@/ui/ProblemAlert';
import { RowsTable } from '@/ui/RowsTable';
import { wordTexts } from '@/ui/words';
import { InvoiceStatus } from './InvoiceStatus';
import { downloadInvoice, type Invoice, useInvoices } from './invoices';
import { invoiceTexts } from './texts';
import { UpcomingCards } from './UpcomingCards';
import { WalletCard } from './WalletCard';

/** The organization's invoices, each with its PDF. */
export function InvoicesPanel() {
  const own = useTexts(invoiceTexts);
  const words = useTexts(wordTexts);
  const invoices = useInvoices();
  const rows = invoices.data?.pages.flatMap((page) => page.data) ?? [];
  return (
    <Stack gap="lg">
      <PageHead title={own.title} hint={own.hint} />
      <SimpleGrid cols={{ base: 1, lg: 2 }} spacing="lg">
        <UpcomingCards />
        <WalletCard />
      </SimpleGrid>
      <ProblemAlert error={invoices.error} retry={() => invoices.refetch()} />
      <Card padding={0}>
        {invoices.isPending && <RowsLoading />}
        {invoices.isSuccess && rows.length === 0 && (
          <EmptyState icon={<InvoiceIcon size={28} />} title={own.none} hint={own.noneHint} />
        )}
        {rows.length > 0 && <InvoicesTable invoices={rows} />}
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
    </Stack>
  );
}

function InvoicesTable({ invoices }: { invoices: Invoice[] }) {
  const own = useTexts(invoiceTexts);
  const download = useMutation({ mutationFn: downloadInvoice });
  return (
    <>
      <ProblemAlert error={download.error} />
      <RowsTable
        label={own.title}
        columns={[
          { label: own.number },
          { label: own.issued },
          { label: own.due },
          { label: own.status },
          { label: own.total, numeric: true },
        ]}
        actions={own.actions}
      >
        {invoices.map((invoice) => (
          <InvoiceRow
            key={invoice.id}
            invoice={invoice}
            pending={download.isPending && download.variables.id === invoice.id}
            onDownload={() => download.mutate(invoice)}
          />
        ))}
      </RowsTable>
    </>
  );
}

type RowProps = { invoice: Invoice; pending: boolean; onDownload: () => void };

function InvoiceRow({ invoice, pending, onDownload }: RowProps) {
  const own = useTexts(invoiceTexts);
  const { locale } = useLocale();
  const date = (value: string | null) => (value ? formatDate(value, locale) : '–');
  return (
    <Table.Tr>
      <Table.Td data-label={own.number}>
        <Anchor
          renderRoot={(props) => (
            <Link to="/invoices" search={{ invoice: invoice.id }} {...props} />
          )}
          fw={600}
          size="sm"
        >
          {invoice.number ?? own.draft}
        </Anchor>
      </Table.Td>
      <Table.Td data-label={own.issued}>{date(invoice.issued_on)}</Table.Td>
      <Table.Td data-label={own.due}>{date(invoice.due_on)}</Table.Td>
      <Table.Td data-label={own.status}>
        <InvoiceStatus invoice={invoice} />
      </Table.Td>
      <Table.Td ta="right" fw={600} data-label={own.total}>
        {formatMoney(invoice.total, locale)}
      </Table.Td>
      <Table.Td ta="right">
        {invoice.number && (
          <Button
            size="compact-sm"
            variant="light"
            leftSection={<DownloadIcon size={16} />}
            loading={pending}
            aria-label={own.downloadNumber(invoice.number)}
            onClick={onDownload}
          >
            {own.download}
          </Button>
        )}
      </Table.Td>
    </Table.Tr>
  );
}
