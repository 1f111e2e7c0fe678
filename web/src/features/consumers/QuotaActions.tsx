// SPDX-License-Identifier: Apache-2.0
import { Button, Card, Group, Stack, Title } from '@mantine/core';
import { useState } from 'react';
import { useLocale, useTexts } from '@/ui/i18n';
import { meterName } from '@/ui/meters';
import { QuotaBar } from '@/ui/QuotaBar';
import type { Consumer, Quota } from './consumers';
import { type Adjustment, QuotaDialog } from './QuotaDialog';
import { detailTexts } from './texts';

type Props = { consumer: Consumer; quotas: Quota[]; onDone: (said: string) => Promise<void> };

/** A subscriber's quotas, each with what the provider can do about it. */
export function QuotaActions({ consumer, quotas, onDone }: Props) {
  const own = useTexts(detailTexts);
  const { locale } = useLocale();
  const [asked, ask] = useState<Adjustment | null>(null);
  return (
    <Card component="section" aria-label={own.quotas}>
      <Title order={2} size="h4" mb="md">
        {own.quotas}
      </Title>
      <Stack gap="lg">
        {quotas.map((quota) => {
          const name = meterName(quota.meter, locale);
          return (
            <QuotaBar
              key={`${quota.meter} ${quota.period}`}
              quota={quota}
              actions={
                <Group gap="xs" mt="xs">
                  <Button
                    size="compact-sm"
                    variant="light"
                    aria-label={own.resetOf(name)}
                    onClick={() => ask({ kind: 'reset', quota })}
                  >
                    {own.reset}
                  </Button>
                  {quota.limit !== null && (
                    <Button
                      size="compact-sm"
                      variant="light"
                      aria-label={own.increaseOf(name)}
                      onClick={() => ask({ kind: 'increase', quota })}
                    >
                      {own.increase}
                    </Button>
                  )}
                </Group>
              }
            />
          );
        })}
      </Stack>
      {asked && (
        <QuotaDialog consumer={consumer} asked={asked} onClose={() => ask(null)} onDone={onDone} />
      )}
    </Card>
  );
}
