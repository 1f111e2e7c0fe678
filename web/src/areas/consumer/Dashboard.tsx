// SPDX-License-Identifier: Apache-2.0
import { Anchor, Card, Group, SimpleGrid, Skeleton, Stack, Text } from '@mantine/core';
import { Link } from '@tanstack/react-router';
import type { ReactNode } from 'react';
import type { Schemas } from '@/api/client';
import { useMay, useSession } from '@/api/session';
import { UpcomingCards } from '@/features/billing/UpcomingCards';
import { OrganizationStatus } from '@/features/identity/OrganizationStatus';
import { SubscriptionStatus } from '@/features/subscriptions/SubscriptionStatus';
import { CallsOverview, SalesOverview } from '@/features/usage/Overview';
import { formatDate, formatMoney, formatNumber } from '@/ui/format';
import { useLocale, useTexts } from '@/ui/i18n';
import { InvoiceIcon, KeyIcon, PulseIcon } from '@/ui/icons';
import { PageHead } from '@/ui/PageHead';
import { ProblemAlert } from '@/ui/ProblemAlert';
import { lastDay } from '@/ui/zone';
import classes from './consumer.module.css';
import { useDashboard, useSells } from './dashboard';
import { NextStep } from './NextStep';
import { dashboardTexts } from './texts';

type Figures = Schemas['Dashboard'];

/** The start page: how the organization stands, and what to do next. */
export function Dashboard() {
  const own = useTexts(dashboardTexts);
  const user = useSession()?.user;
  const mayUsage = useMay('see_usage');
  const mayInvoices = useMay('see_invoices');
  const sells = useSells(useMay('manage_products'));
  const { data, isPending, error, refetch } = useDashboard();
  return (
    <Stack gap="lg">
      <PageHead
        title={own.hello(user?.first_name ?? '')}
        {...(data && { hint: own.hint(data.organization.name) })}
        action={
          data && (
            <Group gap="xs">
              <Text size="sm" c="dimmed">
                {own.organization}
              </Text>
              <OrganizationStatus status={data.organization.status} />
            </Group>
          )
        }
      />
      <ProblemAlert error={error} retry={() => refetch()} />
      {isPending && (
        <SimpleGrid cols={{ base: 1, xs: 2, lg: 4 }} role="status">
          {['plan', 'calls', 'keys', 'invoices'].map((name) => (
            <Skeleton key={name} height={148} radius="lg" />
          ))}
        </SimpleGrid>
      )}
      {data && (
        <>
          {(data.subscription || !sells) && (
            <>
              <NextStep dashboard={data} />
              <FigureCards data={data} />
            </>
          )}
          {sells && <SalesOverview />}
          {mayUsage && data.subscription && <CallsOverview />}
          {mayInvoices && data.subscription && <UpcomingCards />}
        </>
      )}
    </Stack>
  );
}

function FigureCards({ data }: { data: Figures }) {
  const own = useTexts(dashboardTexts);
  const { locale } = useLocale();
  const mayKeys = useMay('manage_api_keys');
  const { subscription, open_invoices: open } = data;
  return (
    <SimpleGrid cols={{ base: 1, xs: 2, lg: 4 }}>
      <FigureCard
        icon={<InvoiceIcon />}
        label={own.plan}
        value={subscription ? subscription.plan : own.noPlan}
      >
        {subscription && (
          <Group gap="xs">
            <SubscriptionStatus status={subscription.status} />
            {subscription.period_ends_at && (
              <Text size="sm" c="dimmed">
                {own.renews(formatDate(lastDay(subscription.period_ends_at), locale))}
              </Text>
            )}
          </Group>
        )}
      </FigureCard>
      <FigureCard
        icon={<PulseIcon />}
        label={own.calls}
        value={formatNumber(data.calls_this_month, locale)}
      >
        {data.calls_this_month === 0 && (
          <Text size="sm" c="dimmed">
            {own.noCalls}
          </Text>
        )}
      </FigureCard>
      <FigureCard
        icon={<KeyIcon />}
        label={own.keys}
        value={formatNumber(data.active_keys, locale)}
      >
        {mayKeys && (
          <Anchor component={Link} to="/keys" size="sm">
            {own.manageKeys}
          </Anchor>
        )}
      </FigureCard>
      {open && (
        <FigureCard
          icon={<InvoiceIcon />}
          label={own.invoices}
          value={formatNumber(open.count, locale)}
        >
          <Group gap="xs">
            <Text size="sm" c="dimmed">
              {open.count === 0 ? own.nothingOpen : own.toPay(formatMoney(open.total, locale))}
            </Text>
            <Anchor component={Link} to="/invoices" size="sm">
              {own.seeInvoices}
            </Anchor>
          </Group>
        </FigureCard>
      )}
    </SimpleGrid>
  );
}

type FigureProps = { icon: ReactNode; label: string; value: string; children?: ReactNode };

function FigureCard({ icon, label, value, children }: FigureProps) {
  return (
    <Card component="section" aria-label={label}>
      <Group gap="sm" mb="sm" wrap="nowrap">
        <span className={classes.figureIcon}>{icon}</span>
        <Text size="sm" c="dimmed" fw={500}>
          {label}
        </Text>
      </Group>
      <p className={classes.figure}>{value}</p>
      {children}
    </Card>
  );
}
