// SPDX-License-Identifier: Apache-2.0
import { Button, Card, Group, Stack, Text, Title, VisuallyHidden } from '@mantine/core';
import { type ReactNode, useState } from 'react';
import { useMay } from '@/api/session';
import { ChargesTable } from '@/ui/ChargesTable';
import { EmptyState } from '@/ui/EmptyState';
import { formatMoney } from '@/ui/format';
import { useLocale, useTexts } from '@/ui/i18n';
import { TagIcon } from '@/ui/icons';
import { RowsLoading } from '@/ui/Loading';
import { ProblemAlert } from '@/ui/ProblemAlert';
import { StateBadge } from '@/ui/StateBadge';
import { MoveDialog } from './MoveDialog';
import { Moves } from './Moves';
import { type Plan, type Product, useOwnAddOns, usePlans } from './ownProducts';
import { ProductPanel } from './ProductPanel';
import { salesTexts } from './planTexts';
import { intervalTexts } from './texts';

/** The plans and extras of the organization's products, and moves of their subscribers. */
export function PlansPanel() {
  const own = useTexts(salesTexts);
  return (
    <ProductPanel title={own.title} hint={own.hint}>
      {(product) => <Plans key={product.id} product={product} />}
    </ProductPanel>
  );
}

function Plans({ product }: { product: Product }) {
  const own = useTexts(salesTexts);
  const mayMove = useMay('manage_consumers');
  const intervals = useTexts(intervalTexts);
  const plans = usePlans(product.id);
  const addOns = useOwnAddOns(product.id);
  const [moving, move] = useState<Plan | null>(null);
  const [said, setSaid] = useState('');
  const rows = [...(plans.data?.data ?? [])].sort((a, b) => a.rank - b.rank);
  const extras = addOns.data?.data ?? [];
  return (
    <Stack gap="lg">
      <VisuallyHidden aria-live="polite">{said}</VisuallyHidden>
      <ProblemAlert error={plans.error} retry={() => plans.refetch()} />
      {plans.isPending && (
        <Card padding={0}>
          <RowsLoading />
        </Card>
      )}
      {plans.isSuccess && rows.length === 0 && (
        <Card padding={0}>
          <EmptyState icon={<TagIcon size={28} />} title={own.none} hint={own.noneHint} />
        </Card>
      )}
      {rows.map((plan) => (
        <PlanCard
          key={plan.id}
          plan={plan}
          every={own.every(plan.interval_count, intervals[plan.interval])}
        >
          {mayMove && (
            <>
              <Group px="lg" pb="lg" pt="xs">
                <Button variant="default" onClick={() => move(plan)}>
                  {own.moveOf(plan.name)}
                </Button>
              </Group>
              <Moves path={{ product_id: product.id, plan_id: plan.id }} plans={rows} />
            </>
          )}
        </PlanCard>
      ))}
      {extras.length > 0 && (
        <Title order={2} size="h4">
          {own.addOns}
        </Title>
      )}
      {extras.map((one) => (
        <PlanCard
          key={one.id}
          plan={one}
          every={one.base_fee_timing === 'once' ? own.once : own.eachPeriod}
        />
      ))}
      {moving && (
        <MoveDialog
          product={product}
          plan={moving}
          plans={rows}
          onClose={() => move(null)}
          onMoved={() => setSaid(own.moved)}
        />
      )}
    </Stack>
  );
}

type Sold = Pick<Plan, 'id' | 'name' | 'status' | 'prices'> & { plan_version?: number };
type CardProps = { plan: Sold; every: string; children?: ReactNode };

/** A plan or an extra: its fee in each currency, and what each meter costs. */
function PlanCard({ plan, every, children }: CardProps) {
  const own = useTexts(salesTexts);
  const statuses = { active: own.active, draft: own.draft, archived: own.archived };
  const { locale } = useLocale();
  return (
    <Card component="section" aria-label={plan.name} padding={0}>
      <Group justify="space-between" align="flex-start" p="lg" pb="xs">
        <div>
          <Title order={2} size="h4">
            {plan.name}
          </Title>
          <Text size="sm">
            {plan.prices
              .map((price) => `${formatMoney(price.base_fee, locale)} ${every}`)
              .join(' · ')}
          </Text>
          {plan.plan_version && (
            <Text size="sm" c="dimmed">
              {own.version(plan.plan_version)}
            </Text>
          )}
        </div>
        <StateBadge
          tone={plan.status === 'active' ? 'good' : 'quiet'}
          label={statuses[plan.status]}
        />
      </Group>
      {plan.prices.map((price) => (
        <ChargesTable
          key={price.base_fee.currency}
          label={own.pricesOf(plan.name, price.base_fee.currency)}
          charges={price.charges}
          currency={price.base_fee.currency}
        />
      ))}
      {children}
    </Card>
  );
}
