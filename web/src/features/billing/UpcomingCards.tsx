// SPDX-License-Identifier: Apache-2.0
import { Card, Stack, Text, Title } from '@mantine/core';
import { formatDate } from '@/ui/format';
import { useLocale, useTexts } from '@/ui/i18n';
import { ProblemAlert } from '@/ui/ProblemAlert';
import { useUpcoming } from './invoices';
import { Sum, Sums } from './Sums';
import { upcomingTexts } from './texts';

/** What the next invoices would be now, and what they may become. */
export function UpcomingCards() {
  const own = useTexts(upcomingTexts);
  const { locale } = useLocale();
  const upcoming = useUpcoming();
  return (
    <>
      <ProblemAlert error={upcoming.error} retry={() => upcoming.refetch()} />
      {upcoming.data?.data.map((invoice) => (
        <Card key={invoice.subscription_id}>
          <Title order={2} size="h4">
            {own.title}
          </Title>
          <Text size="sm" c="dimmed" mb="md">
            {own.on(formatDate(invoice.period_ends_at, locale))}
          </Text>
          <Stack gap={6} component="dl" m={0} mb="sm">
            {invoice.lines.map((line) => (
              <Sum key={line.position} label={line.description} money={line.amount} />
            ))}
          </Stack>
          <Sums invoice={invoice} />
          <Stack gap={6} w="100%" maw={420} m={0} ml="auto" mt="sm" component="dl">
            <Sum label={own.forecast} money={invoice.forecast} />
          </Stack>
        </Card>
      ))}
    </>
  );
}
