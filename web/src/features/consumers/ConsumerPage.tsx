// SPDX-License-Identifier: Apache-2.0
import { Anchor, Button, Card, Group, Stack, Title, VisuallyHidden } from '@mantine/core';
import { Link } from '@tanstack/react-router';
import { useState } from 'react';
import { ChargesTable } from '@/ui/ChargesTable';
import { useTexts } from '@/ui/i18n';
import { BackIcon } from '@/ui/icons';
import { RowsLoading } from '@/ui/Loading';
import { PageHead } from '@/ui/PageHead';
import { ProblemAlert } from '@/ui/ProblemAlert';
import { ConsumerFacts } from './ConsumerFacts';
import { ConsumerStatus } from './ConsumerStatus';
import { ContractDialog } from './ContractDialog';
import { type Detail, useConsumer, useConsumersChanged } from './consumers';
import { Endings } from './Endings';
import { PlanDialog } from './PlanDialog';
import { QuotaActions } from './QuotaActions';
import { consumerTexts, detailTexts } from './texts';

const CHANGEABLE = new Set(['Trial', 'Active']);

/** One subscriber: what was agreed, how the quotas stand, and all that can be done about it. */
export function ConsumerPage({ id }: { id: string }) {
  const own = useTexts(consumerTexts);
  const consumer = useConsumer(id);
  const known = consumer.data;
  return (
    <Stack gap="lg">
      <Anchor renderRoot={(props) => <Link to="/consumers" search={{}} {...props} />} size="sm">
        <BackIcon size={14} /> {own.all}
      </Anchor>
      <PageHead
        title={known?.consumer.name ?? own.one}
        {...(known && { hint: `${known.consumer.product.name}: ${known.consumer.plan.name}` })}
        action={known && <ConsumerStatus consumer={known.consumer} />}
      />
      <ProblemAlert error={consumer.error} retry={() => consumer.refetch()} />
      {consumer.isPending && (
        <Card padding={0}>
          <RowsLoading rows={5} />
        </Card>
      )}
      {known && <Parts detail={known} />}
    </Stack>
  );
}

function Parts({ detail }: { detail: Detail }) {
  const own = useTexts(detailTexts);
  const changed = useConsumersChanged();
  const [opened, open] = useState<'plan' | 'contract' | null>(null);
  const [said, setSaid] = useState('');
  const { consumer, terms, quotas } = detail;
  const mayChange = CHANGEABLE.has(consumer.status);
  const done = async (what: string) => {
    await changed();
    setSaid(what);
  };
  const close = () => open(null);
  return (
    <>
      <VisuallyHidden aria-live="polite">{said}</VisuallyHidden>
      <Card>
        <ConsumerFacts consumer={consumer} />
        {mayChange && (
          <Group mt="md" gap="sm">
            <Button variant="light" onClick={() => open('plan')}>
              {own.changePlan}
            </Button>
            <Button variant="light" onClick={() => open('contract')}>
              {own.agree}
            </Button>
          </Group>
        )}
      </Card>
      {quotas.length > 0 && <QuotaActions consumer={consumer} quotas={quotas} onDone={done} />}
      <Card padding={0} component="section" aria-label={own.prices}>
        <Title order={2} size="h4" p="lg" pb="xs">
          {own.prices}
        </Title>
        <ChargesTable
          label={own.prices}
          charges={terms.charges}
          currency={consumer.base_fee.currency}
        />
      </Card>
      <Endings consumer={consumer} onDone={done} />
      {opened === 'plan' && <PlanDialog consumer={consumer} onClose={close} onDone={done} />}
      {opened === 'contract' && <ContractDialog detail={detail} onClose={close} onDone={done} />}
    </>
  );
}
