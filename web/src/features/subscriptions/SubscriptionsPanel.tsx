// SPDX-License-Identifier: Apache-2.0
import { Button, Card, Stack, VisuallyHidden } from '@mantine/core';
import { Link } from '@tanstack/react-router';
import { useState } from 'react';
import { useMay } from '@/api/session';
import { EmptyState } from '@/ui/EmptyState';
import { useTexts } from '@/ui/i18n';
import { InvoiceIcon } from '@/ui/icons';
import { RowsLoading } from '@/ui/Loading';
import { PageHead } from '@/ui/PageHead';
import { ProblemAlert } from '@/ui/ProblemAlert';
import { ChangeDialog } from './ChangeDialog';
import { SubscriptionCard } from './SubscriptionCard';
import { type Change, type Subscription, useSubscriptions } from './subscriptions';
import { subscriptionTexts } from './texts';

type Wish = { subscription: Subscription; change: Change };

/** What the organization subscribed to, and every way to change it. */
export function SubscriptionsPanel() {
  const own = useTexts(subscriptionTexts);
  const mayChange = useMay('manage_subscriptions');
  const subscriptions = useSubscriptions();
  const [wish, setWish] = useState<Wish | null>(null);
  const [said, setSaid] = useState('');
  const rows = subscriptions.data?.data ?? [];
  return (
    <Stack gap="lg">
      <PageHead title={own.title} hint={own.hint} />
      <VisuallyHidden aria-live="polite">{said}</VisuallyHidden>
      <ProblemAlert error={subscriptions.error} retry={() => subscriptions.refetch()} />
      {subscriptions.isPending && <RowsLoading rows={5} />}
      {subscriptions.isSuccess && rows.length === 0 && (
        <Card padding={0}>
          <EmptyState
            icon={<InvoiceIcon size={28} />}
            title={own.none}
            hint={own.noneHint}
            action={
              mayChange && (
                <Button component={Link} to="/onboarding" variant="light">
                  {own.choose}
                </Button>
              )
            }
          />
        </Card>
      )}
      {rows.map((subscription) => (
        <SubscriptionCard
          key={subscription.id}
          subscription={subscription}
          onChange={(change) => setWish({ subscription, change })}
        />
      ))}
      {wish && (
        <ChangeDialog
          subscription={wish.subscription}
          change={wish.change}
          onClose={() => setWish(null)}
          onDone={setSaid}
        />
      )}
    </Stack>
  );
}
