// SPDX-License-Identifier: Apache-2.0
import { Anchor, Button, Card, Stack, Table, Text } from '@mantine/core';
import { Link } from '@tanstack/react-router';
import { EmptyState } from '@/ui/EmptyState';
import { formatDate, formatMoney } from '@/ui/format';
import { useLocale, useTexts } from '@/ui/i18n';
import { PeopleIcon } from '@/ui/icons';
import { RowsLoading } from '@/ui/Loading';
import { PageHead } from '@/ui/PageHead';
import { ProblemAlert } from '@/ui/ProblemAlert';
import { RowsTable } from '@/ui/RowsTable';
import { wordTexts } from '@/ui/words';
import { ConsumerStatus } from './ConsumerStatus';
import { type Consumer, useConsumers } from './consumers';
import { consumerTexts } from './texts';

/** Who subscribed to the organization's products. */
export function ConsumersPanel() {
  const own = useTexts(consumerTexts);
  const words = useTexts(wordTexts);
  const consumers = useConsumers();
  const rows = consumers.data?.pages.flatMap((page) => page.data) ?? [];
  return (
    <Stack gap="lg">
      <PageHead title={own.title} hint={own.hint} />
      <ProblemAlert error={consumers.error} retry={() => consumers.refetch()} />
      <Card padding={0}>
        {consumers.isPending && <RowsLoading />}
        {consumers.isSuccess && rows.length === 0 && (
          <EmptyState icon={<PeopleIcon size={28} />} title={own.none} hint={own.noneHint} />
        )}
        {rows.length > 0 && <ConsumersTable consumers={rows} />}
      </Card>
      {consumers.hasNextPage && (
        <Button
          variant="default"
          loading={consumers.isFetchingNextPage}
          onClick={() => consumers.fetchNextPage()}
        >
          {words.more}
        </Button>
      )}
    </Stack>
  );
}

function ConsumersTable({ consumers }: { consumers: Consumer[] }) {
  const own = useTexts(consumerTexts);
  const { locale } = useLocale();
  return (
    <RowsTable
      label={own.title}
      columns={[
        { label: own.name },
        { label: own.product },
        { label: own.plan },
        { label: own.status },
        { label: own.since },
        { label: own.fee, numeric: true },
      ]}
    >
      {consumers.map((consumer) => (
        <Table.Tr key={consumer.id}>
          <Table.Td data-label={own.name}>
            <Anchor
              renderRoot={(props) => (
                <Link to="/consumers" search={{ consumer: consumer.id }} {...props} />
              )}
              fw={600}
              size="sm"
            >
              {consumer.name}
            </Anchor>
          </Table.Td>
          <Table.Td data-label={own.product}>{consumer.product.name}</Table.Td>
          <Table.Td data-label={own.plan}>
            <div>
              {consumer.plan.name}
              {consumer.contract && (
                <Text size="xs" c="dimmed">
                  {own.contract}
                </Text>
              )}
            </div>
          </Table.Td>
          <Table.Td data-label={own.status}>
            <ConsumerStatus consumer={consumer} />
          </Table.Td>
          <Table.Td data-label={own.since}>{formatDate(consumer.started_at, locale)}</Table.Td>
          <Table.Td ta="right" data-label={own.fee}>
            {formatMoney(consumer.base_fee, locale)}
          </Table.Td>
        </Table.Tr>
      ))}
    </RowsTable>
  );
}
