// SPDX-License-Identifier: Apache-2.0
import { AppShell, Burger, Group, NavLink, Stack, Text, VisuallyHidden } from '@mantine/core';
import { useDisclosure } from '@mantine/hooks';
import { Link, Outlet, useMatchRoute } from '@tanstack/react-router';
import type { ReactNode } from 'react';
import { useMay, useSession } from '@/api/session';
import { SubscriptionStatus } from '@/features/subscriptions/SubscriptionStatus';
import { Brand } from '@/ui/Brand';
import { useTexts } from '@/ui/i18n';
import {
  ChartIcon,
  GaugeIcon,
  HomeIcon,
  InvoiceIcon,
  KeyIcon,
  LayersIcon,
  ListIcon,
  PeopleIcon,
  PulseIcon,
  TagIcon,
} from '@/ui/icons';
import { Preferences } from '@/ui/Preferences';
import { SkipLink } from '@/ui/SkipLink';
import { wordTexts } from '@/ui/words';
import { AccountMenu } from './AccountMenu';
import classes from './consumer.module.css';
import { useDashboard, useSells } from './dashboard';
import { navigationTexts } from './texts';

/** Around the pages of a member: navigation, the organization, the subscription's status. */
export function ConsumerLayout() {
  const own = useTexts(navigationTexts);
  const words = useTexts(wordTexts);
  const mayKeys = useMay('manage_api_keys');
  const mayInvoices = useMay('see_invoices');
  const maySubscriptions = useMay('see_subscription');
  const mayUsage = useMay('see_usage');
  const mayLogs = useMay('read_logs');
  const runs = Boolean(useSession()?.user.platform_role);
  const mayConsumers = useMay('manage_consumers');
  const sells = useSells(useMay('manage_products'));
  const [opened, { toggle, close }] = useDisclosure();
  return (
    <AppShell
      header={{ height: 64 }}
      navbar={{ width: 248, breakpoint: 'sm', collapsed: { mobile: !opened } }}
      padding={0}
    >
      <SkipLink />
      <AppShell.Header className={classes.header ?? ''}>
        <Group h="100%" px="md" justify="space-between" wrap="nowrap">
          <Group gap="sm" wrap="nowrap">
            <Burger
              opened={opened}
              onClick={toggle}
              hiddenFrom="sm"
              size="sm"
              aria-label={words.menu}
              aria-expanded={opened}
            />
            <Link to="/" className={classes.brand} aria-label={`Nimbus: ${words.home}`}>
              <Brand />
            </Link>
          </Group>
          <Group gap="md" wrap="nowrap">
            <CurrentSubscription />
            <AccountMenu />
          </Group>
        </Group>
      </AppShell.Header>
      <AppShell.Navbar p="md" className={classes.navbar ?? ''}>
        <Stack justify="space-between" h="100%">
          <nav aria-label={own.navigation}>
            <NavigationLink to="/" icon={<HomeIcon />} label={own.start} onClick={close} />
            {mayUsage && (
              <NavigationLink to="/usage" icon={<PulseIcon />} label={own.usage} onClick={close} />
            )}
            {mayLogs && (
              <NavigationLink to="/logs" icon={<ListIcon />} label={own.logs} onClick={close} />
            )}
            {mayKeys && (
              <NavigationLink to="/keys" icon={<KeyIcon />} label={own.keys} onClick={close} />
            )}
            {mayInvoices && (
              <NavigationLink
                to="/invoices"
                icon={<InvoiceIcon />}
                label={own.invoices}
                onClick={close}
              />
            )}
            {maySubscriptions && (
              <NavigationLink
                to="/subscriptions"
                icon={<LayersIcon />}
                label={own.subscriptions}
                onClick={close}
              />
            )}
            {sells && (
              <>
                <Text size="xs" c="dimmed" fw={600} mt="md" mb={4} px="sm">
                  {own.selling}
                </Text>
                {mayConsumers && (
                  <NavigationLink
                    to="/consumers"
                    icon={<PeopleIcon />}
                    label={own.consumers}
                    onClick={close}
                  />
                )}
                <NavigationLink
                  to="/analytics"
                  icon={<ChartIcon />}
                  label={own.analytics}
                  onClick={close}
                />
                <NavigationLink to="/plans" icon={<TagIcon />} label={own.plans} onClick={close} />
                <NavigationLink
                  to="/meters"
                  icon={<GaugeIcon />}
                  label={own.meters}
                  onClick={close}
                />
              </>
            )}
            {runs && (
              <>
                <Text size="xs" c="dimmed" fw={600} mt="md" mb={4} px="sm">
                  {own.running}
                </Text>
                <NavigationLink
                  to="/receivables"
                  icon={<InvoiceIcon />}
                  label={own.receivables}
                  onClick={close}
                />
              </>
            )}
          </nav>
          <Preferences />
        </Stack>
      </AppShell.Navbar>
      <AppShell.Main id="content" tabIndex={-1} className={classes.main ?? ''}>
        <div className={classes.content}>
          <Outlet />
        </div>
      </AppShell.Main>
    </AppShell>
  );
}

type NavigationLinkProps = {
  to:
    | '/'
    | '/usage'
    | '/logs'
    | '/keys'
    | '/invoices'
    | '/subscriptions'
    | '/consumers'
    | '/analytics'
    | '/plans'
    | '/meters'
    | '/receivables';
  icon: ReactNode;
  label: string;
  onClick: () => void;
};

function NavigationLink({ to, icon, label, onClick }: NavigationLinkProps) {
  const here = Boolean(useMatchRoute()({ to }));
  return (
    <NavLink
      component={Link}
      to={to}
      leftSection={icon}
      label={label}
      active={here}
      aria-current={here ? 'page' : undefined}
      className={classes.link ?? ''}
      onClick={onClick}
    />
  );
}

function CurrentSubscription() {
  const own = useTexts(navigationTexts);
  const subscription = useDashboard().data?.subscription;
  if (!subscription) return null;
  return (
    <Group gap={8} wrap="nowrap">
      <Text size="sm" c="dimmed" visibleFrom="sm">
        <VisuallyHidden component="span">{own.subscription}: </VisuallyHidden>
        {subscription.product} {subscription.plan}
      </Text>
      <SubscriptionStatus status={subscription.status} />
    </Group>
  );
}
