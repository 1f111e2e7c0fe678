// SPDX-License-Identifier: Apache-2.0
import { Radio, SimpleGrid, Stack, Text } from '@mantine/core';
import { useQuery } from '@tanstack/react-query';
import { api, type Schemas } from '@/api/client';
import { unwrap } from '@/api/problem';
import { EmptyState } from '@/ui/EmptyState';
import { useTexts } from '@/ui/i18n';
import { InvoiceIcon } from '@/ui/icons';
import { RowsLoading } from '@/ui/Loading';
import { ProblemAlert } from '@/ui/ProblemAlert';
import { PlanCard } from './PlanCard';
import { planTexts } from './texts';

export type Plan = Schemas['Plan'];

type Props = { chosen: Plan | null; onChoose: (plan: Plan) => void };

/** The plans of the operator's product, cheapest first, one of them to choose. */
export function PlanPicker({ chosen, onChoose }: Props) {
  const own = useTexts(planTexts);
  const plans = useQuery({
    queryKey: ['plans'],
    queryFn: () => unwrap(api.GET('/api/billing/plans')),
  });
  if (plans.isPending) return <RowsLoading rows={5} />;
  if (plans.isError) return <ProblemAlert error={plans.error} retry={() => plans.refetch()} />;
  const offered = plans.data.data.toSorted((one, other) => one.rank - other.rank);
  if (offered.length === 0) {
    return <EmptyState icon={<InvoiceIcon size={28} />} title={own.none} hint={own.noneHint} />;
  }
  const choose = (slug: string) => {
    const plan = offered.find((item) => item.slug === slug);
    if (plan) onChoose(plan);
  };
  return (
    <Stack gap="md">
      <Radio.Group value={chosen?.slug ?? null} onChange={choose} aria-label={own.plans}>
        <SimpleGrid cols={{ base: 1, sm: 2 }} spacing="md">
          {offered.map((plan) => (
            <PlanCard key={plan.slug} plan={plan} />
          ))}
        </SimpleGrid>
      </Radio.Group>
      <Text size="sm" c="dimmed">
        {own.invoice}
      </Text>
    </Stack>
  );
}
