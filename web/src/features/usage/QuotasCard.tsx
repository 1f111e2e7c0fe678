// SPDX-License-Identifier: Apache-2.0
import { Card, Stack, Text, Title } from '@mantine/core';
import { useTexts } from '@/ui/i18n';
import { QuotaBar } from '@/ui/QuotaBar';
import { costTexts } from './texts';
import { useQuotas } from './usage';

/** What is left of each quota, and what happens over it. */
export function QuotasCard() {
  const own = useTexts(costTexts);
  const quotas = useQuotas().data?.data;
  if (!quotas) return null;
  return (
    <Card component="section" aria-label={own.quotas}>
      <Title order={2} size="h4" mb="md">
        {own.quotas}
      </Title>
      {quotas.length === 0 && (
        <Text size="sm" c="dimmed">
          {own.noQuotas}
        </Text>
      )}
      <Stack gap="md">
        {quotas.map((quota) => (
          <QuotaBar key={`${quota.subscription_id} ${quota.meter} ${quota.period}`} quota={quota} />
        ))}
      </Stack>
    </Card>
  );
}
