// SPDX-License-Identifier: Apache-2.0
import { Card, Group, Progress, Stack, Text, Title } from '@mantine/core';
import { formatDate, formatNumber } from '@/ui/format';
import { useLocale, useTexts } from '@/ui/i18n';
import { costTexts } from './texts';
import { useQuotas } from './usage';

const NEARLY = 80;

/** What is left of each quota. */
export function QuotasCard() {
  const own = useTexts(costTexts);
  const { locale } = useLocale();
  const quotas = useQuotas().data?.data;
  if (!quotas) return null;
  const number = (value: string) => formatNumber(value, locale);
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
        {quotas.map((quota) => {
          const name = `${quota.product.name}: ${quota.meter}`;
          const share = quota.limit ? (Number(quota.used) / Number(quota.limit)) * 100 : 0;
          return (
            <div key={`${quota.subscription_id} ${quota.meter} ${quota.period}`}>
              <Group justify="space-between" gap="xs" mb={4}>
                <Text size="sm" fw={600}>
                  {name}
                </Text>
                <Text size="sm" c="dimmed">
                  {quota.limit && quota.remaining !== null
                    ? own.left(number(quota.remaining), number(quota.limit))
                    : own.noLimit(number(quota.used))}
                  {', '}
                  {own.resets(formatDate(quota.ends_at, locale))}
                </Text>
              </Group>
              {quota.limit && (
                <Progress
                  value={Math.min(100, share)}
                  color={share >= 100 ? 'red' : share >= NEARLY ? 'yellow' : 'sky'}
                  size="lg"
                  radius="sm"
                  aria-label={name}
                />
              )}
            </div>
          );
        })}
      </Stack>
    </Card>
  );
}
