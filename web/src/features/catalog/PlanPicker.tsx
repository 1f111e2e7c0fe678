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

export type Plan = Schemas['OfferedPlan'];

type Props = { currency: string; chosen: Plan | null; onChoose: (plan: Plan) => void };

/** The plans of the operator's product that have a price in `currency`, one of them to choose. */
export function PlanPicker({ currency, chosen, onChoose }: Props) {
  const own = useTexts(planTexts);
  const plans = useQuery({
    queryKey: ['plans'],
    queryFn: () => unwrap(api.GET('/api/billing/plans')),
  });
  if (plans.isPending) return <RowsLoading rows={5} />;
  // No product on sale is an empty offer.
  if (plans.isError && plans.error.status !== 404) {
    return <ProblemAlert error={plans.error} retry={() => plans.refetch()} />;
  }
  const offered = (plans.data?.data ?? []).flatMap((plan) => {
    const price = plan.prices.find((item) => item.base_fee.currency === currency);
    return price ? [{ plan, price }] : [];
  });
  if (offered.length === 0) {
    return <EmptyState icon={<InvoiceIcon size={28} />} title={own.none} hint={own.noneHint} />;
  }
  const choose = (slug: string) => {
    const found = offered.find(({ plan }) => plan.slug === slug);
    if (found) onChoose(found.plan);
  };
  return (
    <Stack gap="md">
      <Radio.Group value={chosen?.slug ?? null} onChange={choose} aria-label={own.plans}>
        <SimpleGrid cols={{ base: 1, sm: 2 }} spacing="md">
          {offered.map(({ plan, price }) => (
            <PlanCard key={plan.slug} plan={plan} price={price} />
          ))}
        </SimpleGrid>
      </Radio.Group>
      {chosen?.payment_on_invoice && (
        <Text size="sm" c="dimmed" role="status">
          {own.invoice(chosen.payment_term_days)}
        </Text>
      )}
    </Stack>
  );
}
