// SPDX-License-Identifier: Apache-2.0
import { Button, Group, Modal, Radio, Stack, Text, TextInput } from '@mantine/core';
import { useMutation, useQuery } from '@tanstack/react-query';
import { useState } from 'react';
import { formatDate, formatInstant, formatMoney } from '@/ui/format';
import { useLocale, useTexts } from '@/ui/i18n';
import { RowsLoading } from '@/ui/Loading';
import { ProblemAlert } from '@/ui/ProblemAlert';
import { wordTexts } from '@/ui/words';
import { CostTable } from './CostTable';
import {
  type Change,
  makeChange,
  type Preview,
  previewChange,
  type Subscription,
  useOffer,
  useSubscriptionsChanged,
} from './subscriptions';
import { changeTexts, intervalTexts, subscriptionTexts, titleTexts } from './texts';

type Props = {
  subscription: Subscription;
  change: Change | null;
  onClose: () => void;
  onDone: (said: string) => void;
};

/** Shows what a change costs and does, then makes it for exactly that. */
export function ChangeDialog({ subscription, change, onClose, onDone }: Props) {
  const titles = useTexts(titleTexts);
  const words = useTexts(wordTexts);
  return (
    <Modal
      opened={change !== null}
      onClose={onClose}
      title={change && titles[change.change]}
      closeButtonProps={{ 'aria-label': words.close }}
      radius="lg"
      size="lg"
      centered
    >
      {change && (
        <Asked subscription={subscription} first={change} onClose={onClose} onDone={onDone} />
      )}
    </Modal>
  );
}

type AskedProps = Omit<Props, 'change'> & { first: Change };

function Asked({ subscription, first, onClose, onDone }: AskedProps) {
  const own = useTexts(changeTexts);
  const words = useTexts(wordTexts);
  const { locale } = useLocale();
  const changed = useSubscriptionsChanged();
  const [reason, setReason] = useState('');
  const [when, setWhen] = useState('end');
  const leaves = first.change === 'cancel';
  const chooses = (leaves && subscription.status !== 'Paused') || first.change === 'downgrade';
  const at_once = when === 'now';
  // What it costs does not hang on the reason; it is a part of what is confirmed.
  const asked: Change = { ...first, at_once, ...(leaves && { reason: reason.trim() || '–' }) };
  const preview = useQuery({
    queryKey: ['preview', subscription.id, subscription.version, first, at_once],
    queryFn: () => previewChange(subscription, asked),
    staleTime: 0,
    gcTime: 0,
    retry: false,
  });
  const confirm = useMutation({
    mutationFn: async (said: Preview) => {
      const same = leaves ? await previewChange(subscription, asked) : said;
      await makeChange(subscription, asked, same);
      await changed();
    },
    onSuccess: () => {
      onDone(own.done);
      onClose();
    },
  });
  return (
    <Stack>
      {leaves && (
        <TextInput
          label={own.reason}
          description={own.reasonHint}
          value={reason}
          maxLength={500}
          onChange={(event) => setReason(event.currentTarget.value)}
          data-autofocus
        />
      )}
      {chooses && (
        <Radio.Group label={own.when} value={when} onChange={setWhen}>
          <Stack gap="xs" mt="xs">
            <Radio
              value="end"
              label={own.atPeriodEnd(formatDate(subscription.period.ends_at, locale))}
            />
            <Radio value="now" label={own.atOnce} />
          </Stack>
        </Radio.Group>
      )}
      {preview.isPending && <RowsLoading rows={3} />}
      <ProblemAlert error={preview.error} retry={() => preview.refetch()} />
      {preview.data && <Said preview={preview.data} />}
      {preview.data?.scheduled_at && first.plan && (
        <Afterwards subscription={subscription} slug={first.plan} />
      )}
      <ProblemAlert error={confirm.error} />
      <Group justify="flex-end">
        <Button variant="default" onClick={onClose}>
          {words.cancel}
        </Button>
        <Button
          {...(leaves && { color: 'red.9' })}
          disabled={!preview.data}
          loading={confirm.isPending}
          onClick={() => preview.data && confirm.mutate(preview.data)}
        >
          {own.confirm}
        </Button>
      </Group>
    </Stack>
  );
}

/** What a plan that is waited for costs, in the words of its offer. */
function Afterwards({ subscription, slug }: { subscription: Subscription; slug: string }) {
  const own = useTexts(changeTexts);
  const words = useTexts(subscriptionTexts);
  const intervals: Record<string, string> = useTexts(intervalTexts);
  const { locale } = useLocale();
  const plan = useOffer(subscription.product.slug).data?.plans.find((one) => one.slug === slug);
  const price = plan?.prices.find((one) => one.base_fee.currency === subscription.currency);
  if (!plan || !price) return null;
  const every = words.every(plan.interval_count, intervals[plan.interval] ?? plan.interval);
  const fee = words.fee(formatMoney(price.base_fee, locale), every);
  return <Text size="sm">{own.after(plan.name, fee)}</Text>;
}

function Said({ preview }: { preview: Preview }) {
  const own = useTexts(changeTexts);
  const { locale } = useLocale();
  const date = (at: string) => formatDate(at, locale);
  return (
    <Stack gap="sm" role="status">
      <Text size="sm" fw={600}>
        {preview.ends_at && own.ends(date(preview.ends_at))}
        {!preview.ends_at && preview.scheduled_at && own.waits(date(preview.scheduled_at))}
        {!preview.ends_at &&
          !preview.scheduled_at &&
          (preview.status === 'Paused' ? own.pauses : own.holds)}
      </Text>
      <CostTable title={own.now} cost={preview.now} empty={own.nowNothing} />
      <CostTable
        title={preview.next_at ? own.next(date(preview.next_at)) : ''}
        hint={own.soFar}
        cost={preview.next}
        empty={preview.next_at ? '' : own.nextNothing}
      />
      {preview.now && (
        <Text size="xs" c="dimmed">
          {own.valid(formatInstant(preview.expires_at, locale))}
        </Text>
      )}
    </Stack>
  );
}
