// SPDX-License-Identifier: Apache-2.0
import { createContext, type ReactNode, use, useEffect, useState } from 'react';
import { recall, remember } from './storage';

export type Locale = 'en' | 'nl';

type Entry = string | ((...values: never[]) => string);
export type Texts<T> = Record<Locale, T>;

/** Pairs the English texts with Dutch ones of the same shape: a missing one does not compile. */
export function texts<T extends Record<string, Entry>>(en: T, nl: { [K in keyof T]: T[K] }) {
  return { en, nl } as Texts<T>;
}

type LocaleChoice = { locale: Locale; choose: (locale: Locale) => void };

const LocaleContext = createContext<LocaleChoice | null>(null);

function preferred(): Locale {
  const stored = recall('nimbus.locale');
  if (stored === 'nl' || stored === 'en') return stored;
  return navigator.language.toLowerCase().startsWith('nl') ? 'nl' : 'en';
}

export function LocaleProvider({ children }: { children: ReactNode }) {
  const [locale, setLocale] = useState(preferred);
  useEffect(() => {
    document.documentElement.lang = locale;
  }, [locale]);
  const choose = (chosen: Locale) => {
    remember('nimbus.locale', chosen);
    setLocale(chosen);
  };
  return <LocaleContext value={{ locale, choose }}>{children}</LocaleContext>;
}

export function useLocale(): LocaleChoice {
  const choice = use(LocaleContext);
  if (!choice) throw new Error('useLocale needs a LocaleProvider above it');
  return choice;
}

/** The texts in the reader's language. */
export function useTexts<T>(dictionary: Texts<T>): T {
  return dictionary[useLocale().locale];
}
