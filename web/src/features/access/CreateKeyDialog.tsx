// SPDX-License-Identifier: Apache-2.0
import { Alert, Button, Modal, Stack } from '@mantine/core';
import { useState } from 'react';
import { CopyField } from '@/ui/CopyField';
import { useTexts } from '@/ui/i18n';
import { AlertIcon } from '@/ui/icons';
import { wordTexts } from '@/ui/words';
import { CreateKeyForm } from './CreateKeyForm';
import { keyTexts } from './texts';

type Props = { opened: boolean; onClose: () => void };

/** Makes a key, then shows its secret this one time. A click beside it does not lose the secret. */
export function CreateKeyDialog({ opened, onClose }: Props) {
  const own = useTexts(keyTexts);
  const words = useTexts(wordTexts);
  const [secret, setSecret] = useState<string | null>(null);
  return (
    <Modal
      opened={opened}
      onClose={onClose}
      onExitTransitionEnd={() => setSecret(null)}
      title={secret ? own.secretTitle : own.createTitle}
      closeOnClickOutside={secret === null}
      closeOnEscape={secret === null}
      closeButtonProps={{ 'aria-label': words.close }}
      radius="lg"
      size="lg"
      centered
    >
      {secret ? (
        <Stack>
          <Alert color="yellow" icon={<AlertIcon />} variant="light" role="status">
            {own.secretWarning}
          </Alert>
          <CopyField label={own.secretLabel} value={secret}>
            <Button variant="default" onClick={onClose}>
              {own.secretDone}
            </Button>
          </CopyField>
        </Stack>
      ) : (
        <CreateKeyForm onSecret={setSecret} onCancel={onClose} />
      )}
    </Modal>
  );
}
