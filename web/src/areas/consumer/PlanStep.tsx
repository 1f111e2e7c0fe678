// SPDX-License-Identifier: Apache-2.0
import { Button, Group, Stack } from '@mantine/core';
import { useMutation, useQuery } from '@tanstack/react-query';
import { useState } from 'react';
import { api } from '@/api/client';
import { unwrap } from '@/api/problem';
import { type Plan, PlanPicker } from '@/features/catalog/PlanPicker';
import { planTexts } from '@/features/catalog/texts';
import { choosePlan } from '@/features/subscriptions/choosePlan';
import { useTexts } from '@/ui/i18n';
import { RowsLoading } from '@/ui/Loading';
import { PageHead } from '@/ui/PageHead';
import { ProblemAlert } from '@/ui/ProblemAlert';
import { wordTexts } from '@/ui/words';

type Props = {
  onDone: () => Promise<void>;
  onKey: (secret: string) => void;
  onLater: () => void;
};

/** A plan for the operator's product, or none for now. */
export function PlanStep({ onDone, onKey, onLater }: Props) {
  const own = useTexts(planTexts);
  const words = useTexts(wordTexts);
  const [plan, setPlan] = useState<Plan | null>(null);
  const organization = useQuery({
    queryKey: ['organization'],
    queryFn: () => unwrap(api.GET('/api/organizations/me')),
  });
  const choose = useMutation({
    mutationFn: async (chosen: Plan) => {
      const key = await choosePlan(chosen.product, chosen.slug);
      if (key) onKey(key);
      await onDone();
    },
  });
  return (
    <Stack gap="lg">
      <PageHead title={own.title} hint={own.hint} />
      <ProblemAlert error={choose.error} />
      {organization.isPending && <RowsLoading rows={5} />}
      <ProblemAlert error={organization.error} retry={() => organization.refetch()} />
      {organization.data && (
        <PlanPicker currency={organization.data.currency} chosen={plan} onChoose={setPlan} />
      )}
      <Group justify="space-between">
        <Button variant="subtle" size="md" onClick={onLater} disabled={choose.isPending}>
          {own.later}
        </Button>
        <Button
          size="md"
          disabled={!plan}
          loading={choose.isPending}
          onClick={() => plan && choose.mutate(plan)}
        >
          {words.next}
        </Button>
      </Group>
    </Stack>
  );
}
