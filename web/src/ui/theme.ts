// SPDX-License-Identifier: Apache-2.0
import {
  type CSSVariablesResolver,
  createTheme,
  DEFAULT_THEME,
  type MantineColorsTuple,
} from '@mantine/core';
import page from './page.module.css';

const sky: MantineColorsTuple = [
  '#eef3ff',
  '#dce6ff',
  '#b8ccff',
  '#8fadfe',
  '#6c90f8',
  '#4f76ee',
  '#3d64e3',
  '#2f54d4',
  '#2546b5',
  '#1d3a97',
];

// Mantine's own dark greys are neutral; these lean to the brand's blue.
const dark: MantineColorsTuple = [
  '#d5dae6',
  '#b3bacb',
  '#8f98ad',
  '#69738a',
  '#3b4459',
  '#2c3447',
  '#222a3b',
  '#181f2e',
  '#121825',
  '#0c111b',
];

// The darkest shade is the ink on light badges; Mantine's own misses 4.5:1 there.
function withInk(name: 'teal' | 'yellow' | 'red', ink: string): MantineColorsTuple {
  return [...DEFAULT_THEME.colors[name].slice(0, 9), ink] as unknown as MantineColorsTuple;
}

export const theme = createTheme({
  primaryColor: 'sky',
  primaryShade: { light: 7, dark: 6 },
  colors: {
    sky,
    dark,
    teal: withInk('teal', '#05573d'),
    yellow: withInk('yellow', '#6b4100'),
    red: withInk('red', '#a01515'),
  },
  fontFamily: "'Inter Variable', system-ui, sans-serif",
  fontFamilyMonospace: 'ui-monospace, SFMono-Regular, Menlo, Consolas, monospace',
  headings: { fontWeight: '650', fontFamily: "'Inter Variable', system-ui, sans-serif" },
  defaultRadius: 'md',
  cursorType: 'pointer',
  components: {
    TextInput: { defaultProps: { size: 'md' } },
    PasswordInput: { defaultProps: { size: 'md' } },
    Select: { defaultProps: { size: 'md' } },
    NativeSelect: { defaultProps: { size: 'md' } },
    NumberInput: { defaultProps: { size: 'md' } },
    Textarea: { defaultProps: { size: 'md' } },
    // Beside each other, fields stay in line when only one of them has a hint.
    InputWrapper: {
      defaultProps: { inputWrapperOrder: ['label', 'input', 'description', 'error'] },
    },
    Modal: {
      styles: { title: { fontWeight: 650, fontSize: '1.125rem' } },
      // Its header is not the page's banner.
      defaultProps: { attributes: { header: { role: 'presentation' } } },
    },
    Card: {
      defaultProps: { withBorder: true, padding: 'lg', radius: 'lg' },
      classNames: { root: page.card ?? '' },
    },
  },
});

// Mantine's greys and reds for text miss the 4.5:1 of WCAG AA on our backgrounds.
export const contrast: CSSVariablesResolver = () => ({
  variables: {},
  light: {
    '--mantine-color-body': '#fbfcfe',
    '--mantine-color-dimmed': '#525c70',
    '--mantine-color-placeholder': '#6b7488',
    '--mantine-color-error': '#c02626',
  },
  dark: {
    '--mantine-color-dimmed': '#a7b0c4',
    '--mantine-color-placeholder': '#8f98ad',
    '--mantine-color-error': '#ff8f8f',
  },
});
