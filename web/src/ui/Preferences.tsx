// SPDX-License-Identifier: Apache-2.0
import {
  ActionIcon,
  Group,
  NativeSelect,
  useComputedColorScheme,
  useMantineColorScheme,
} from '@mantine/core';
import { type Locale, useLocale, useTexts } from './i18n';
import { MoonIcon, SunIcon } from './icons';
import { wordTexts } from './words';

const LANGUAGES = [
  { value: 'en', label: 'English' },
  { value: 'nl', label: 'Nederlands' },
];

/** The reader's language and colours. */
export function Preferences() {
  const words = useTexts(wordTexts);
  const { locale, choose } = useLocale();
  const { setColorScheme } = useMantineColorScheme();
  const dark = useComputedColorScheme('light', { getInitialValueInEffect: false }) === 'dark';
  return (
    <Group gap="xs" wrap="nowrap">
      <NativeSelect
        aria-label={words.language}
        size="sm"
        variant="unstyled"
        w={118}
        data={LANGUAGES}
        value={locale}
        onChange={(event) => choose(event.currentTarget.value as Locale)}
      />
      <ActionIcon
        variant="subtle"
        color="gray"
        size="lg"
        aria-label={dark ? words.toLight : words.toDark}
        onClick={() => setColorScheme(dark ? 'light' : 'dark')}
      >
        {dark ? <SunIcon /> : <MoonIcon />}
      </ActionIcon>
    </Group>
  );
}
