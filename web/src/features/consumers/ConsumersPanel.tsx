// SPDX-License-Identifier: Apache-2.0
import { Button, Card, Group, Stack, Table, Text, VisuallyHidden } from '@mantine/core';
import { useState } from 'react';
import { ConfirmDialog } from '@/ui/ConfirmDialog';
import { EmptyState } from '@/ui/EmptyState';
import { formatDate, formatMoney } from '@/ui/format';
import { useLocale, useTexts } from '@/ui/i18n';
import { ListIcon } from '@/ui/icons';
import { RowsLoading } from '@/ui/Loading';
import { PageHead } from '@/ui/PageHead';
import { ProblemAlert } from '@/ui/ProblemAlert';
import { RowsTable } from '@/ui/RowsTable';
import { StateBadge, type Tone } from '@/ui/StateBadge';
import { stateTexts } from '@/ui/states';
import { wordTexts } from '@/ui/words';
import {
  ban,
  type Consumer,
  readmit,
  revoke,
  useConsumers,
  useConsumersChanged,
} from './consumers';
import { consumerTexts } from './texts';

type Deed = 'revoke' | 'ban' | 'readmit';
type Wish = { deed: Deed; consumer: Consumer };
const TONES: Record<string, Tone> = { Active: 'good', Trial: 'note', Suspended: 'bad' };

/** Who subscribed to the organization's products. */
export function ConsumersPanel() {
  const own = useTexts(consumerTexts);
  const words = useTexts(wordTexts);
  const consumers = useConsumers();
  const changed = useConsumersChanged();
  const [wish, setWish] = useState<Wish | null>(null);
  const [said, setSaid] = useState('');
  const rows = consumers.data?.pages.flatMap((page) => page.data) ?? [];
  const carryOut = async () => {
    if (!wish) return;
    const { deed, consumer } = wish;
    if (deed === 'revoke') await revoke(consumer, own.reason);
    if (deed === 'ban') await ban(consumer, own.reasonBan);
    if (deed === 'readmit') await readmit(consumer);
    await changed();
    setSaid(own.done(consumer.name));
  };
  return (
    <Stack gap="lg">
      <PageHead title={own.title} hint={own.hint} />
      <VisuallyHidden aria-live="polite">{said}</VisuallyHidden>
      <ProblemAlert error={consumers.error} retry={() => consumers.refetch()} />
      <Card padding={0}>
        {consumers.isPending && <RowsLoading />}
        {consumers.isSuccess && rows.length === 0 && (
          <EmptyState icon={<ListIcon size={28} />} title={own.none} hint={own.noneHint} />
        )}
        {rows.length > 0 && (
          <ConsumersTable
            consumers={rows}
            onDeed={(deed, consumer) => setWish({ deed, consumer })}
          />
        )}
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
      <ConfirmDialog
        opened={wish !== null}
        title={wish ? own[`${wish.deed}Title`](wish.consumer.name) : ''}
        hint={wish ? own[`${wish.deed}Hint`] : ''}
        action={wish ? own[wish.deed] : ''}
        onConfirm={carryOut}
        onClose={() => setWish(null)}
      />
    </Stack>
  );
}

type TableProps = { consumers: Consumer[]; onDeed: (deed: Deed, consumer: Consumer) => void };

function ConsumersTable({ consumers, onDeed }: TableProps) {
  const own = useTexts(consumerTexts);
  const statuses: Record<string, string> = useTexts(stateTexts);
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
      actions={own.actions}
    >
      {consumers.map((consumer) => (
        <Table.Tr key={consumer.id}>
          <Table.Td data-label={own.name}>
            <Text fw={600} size="sm">
              {consumer.name}
            </Text>
          </Table.Td>
          <Table.Td data-label={own.product}>{consumer.product.name}</Table.Td>
          <Table.Td data-label={own.plan}>
            {consumer.plan.name}
            {consumer.contract && (
              <Text size="xs" c="dimmed">
                {own.contract}
              </Text>
            )}
          </Table.Td>
          <Table.Td data-label={own.status}>
            <StateBadge
              tone={consumer.banned ? 'bad' : (TONES[consumer.status] ?? 'quiet')}
              label={consumer.banned ? own.banned : (statuses[consumer.status] ?? consumer.status)}
            />
          </Table.Td>
          <Table.Td data-label={own.since}>{formatDate(consumer.started_at, locale)}</Table.Td>
          <Table.Td ta="right" data-label={own.fee}>
            {formatMoney(consumer.base_fee, locale)}
          </Table.Td>
          <Table.Td ta="right">
            <Deeds consumer={consumer} onDeed={onDeed} />
          </Table.Td>
        </Table.Tr>
      ))}
    </RowsTable>
  );
}

type DeedsProps = { consumer: Consumer; onDeed: (deed: Deed, consumer: Consumer) => void };

function Deeds({ consumer, onDeed }: DeedsProps) {
  const own = useTexts(consumerTexts);
  const deeds: Deed[] = consumer.banned ? ['readmit'] : ['ban'];
  if (!consumer.banned && consumer.status !== 'Expired') deeds.unshift('revoke');
  return (
    <Group gap={8} justify="flex-end" wrap="nowrap">
      {deeds.map((deed) => (
        <Button
          key={deed}
          size="compact-sm"
          variant="light"
          color={deed === 'readmit' ? 'sky' : 'red.9'}
          aria-label={own.of(own[deed], consumer.name)}
          onClick={() => onDeed(deed, consumer)}
        >
          {own[deed]}
        </Button>
      ))}
    </Group>
  );
}
