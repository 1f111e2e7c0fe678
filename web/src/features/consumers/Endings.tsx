// SPDX-License-Identifier: Apache-2.0
import { Button, Card, Group, Text, Title } from '@mantine/core';
import { useState } from 'react';
import { ConfirmDialog } from '@/ui/ConfirmDialog';
import { useTexts } from '@/ui/i18n';
import { ban, type Consumer, readmit, revoke } from './consumers';
import { consumerTexts } from './texts';

type Deed = 'revoke' | 'ban' | 'readmit';
type Props = { consumer: Consumer; onDone: (said: string) => Promise<void> };

/** How a provider parts from a subscriber, and takes it back. */
export function Endings({ consumer, onDone }: Props) {
  const own = useTexts(consumerTexts);
  const [deed, setDeed] = useState<Deed | null>(null);
  const deeds: Deed[] = consumer.banned ? ['readmit'] : ['ban'];
  if (!consumer.banned && consumer.status !== 'Expired') deeds.unshift('revoke');
  const carryOut = async () => {
    if (deed === 'revoke') await revoke(consumer, own.reason);
    if (deed === 'ban') await ban(consumer, own.reasonBan);
    if (deed === 'readmit') await readmit(consumer);
    await onDone(own.done(consumer.name));
  };
  return (
    <Card component="section" aria-label={own.endings}>
      <Title order={2} size="h4">
        {own.endings}
      </Title>
      <Text size="sm" c="dimmed" mb="md">
        {own.endingsHint}
      </Text>
      <Group gap="sm">
        {deeds.map((one) => (
          <Button
            key={one}
            variant="light"
            color={one === 'readmit' ? 'sky' : 'red'}
            aria-label={own.of(own[one], consumer.name)}
            onClick={() => setDeed(one)}
          >
            {own[one]}
          </Button>
        ))}
      </Group>
      <ConfirmDialog
        opened={deed !== null}
        title={deed ? own[`${deed}Title`](consumer.name) : ''}
        hint={deed ? own[`${deed}Hint`] : ''}
        action={deed ? own[deed] : ''}
        onConfirm={carryOut}
        onClose={() => setDeed(null)}
      />
    </Card>
  );
}
