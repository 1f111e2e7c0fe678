// SPDX-License-Identifier: Apache-2.0
import { Button, Group, Modal, Stack, Text } from '@mantine/core';
import { useState } from 'react';
import { useTexts } from './i18n';
import { ProblemAlert } from './ProblemAlert';
import type { Refused } from './problems';
import { wordTexts } from './words';

type Props = {
  opened: boolean;
  title: string;
  hint: string;
  action: string;
  onConfirm: () => Promise<void>;
  onClose: () => void;
};

/** Asks before something that cannot be undone, and says what it does. */
export function ConfirmDialog({ opened, title, hint, action, onConfirm, onClose }: Props) {
  const words = useTexts(wordTexts);
  const [pending, setPending] = useState(false);
  const [failure, setFailure] = useState<Refused | null>(null);
  const close = () => {
    setFailure(null);
    onClose();
  };
  const confirm = async () => {
    setPending(true);
    setFailure(null);
    try {
      await onConfirm();
      close();
    } catch (error) {
      setFailure(error as Refused);
    } finally {
      setPending(false);
    }
  };
  return (
    <Modal
      opened={opened}
      onClose={close}
      title={title}
      closeButtonProps={{ 'aria-label': words.close }}
      radius="lg"
      centered
    >
      <Stack>
        <Text size="sm">{hint}</Text>
        <ProblemAlert error={failure} />
        <Group justify="flex-end">
          <Button variant="default" onClick={close} data-autofocus>
            {words.cancel}
          </Button>
          <Button color="red.9" loading={pending} onClick={confirm}>
            {action}
          </Button>
        </Group>
      </Stack>
    </Modal>
  );
}
