// Use the Vercel AI SDK as its documentation says and print what came of it as JSON.
//
//     node run_node.mjs <gateway URL> <provider>:<model>…
//
// Providers are those of the SDK: openai (speaks Responses), chat, anthropic, google.

import { createAnthropic } from "@ai-sdk/anthropic";
import { createGoogleGenerativeAI } from "@ai-sdk/google";
import { createOpenAI } from "@ai-sdk/openai";
import { generateObject, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

globalThis.AI_SDK_LOG_WARNINGS = false; // They would mix with the result.

const [url, ...targets] = process.argv.slice(2);
const openai = createOpenAI({ baseURL: `${url}/v1`, apiKey: "mine" });
const anthropic = createAnthropic({ baseURL: `${url}/v1`, apiKey: "mine" });
const google = createGoogleGenerativeAI({ baseURL: `${url}/v1beta`, apiKey: "mine" });
const providers = { openai, chat: openai.chat, anthropic, google };

const prompt = "hello";
const maxRetries = 0;
const place = z.object({ city: z.string(), degrees: z.number().int() });

function casesOf(made, name) {
  const model = made(name);
  return {
    plain: async () => (await generateText({ model, prompt, maxRetries })).text,
    stream: async () => {
      const words = [];
      for await (const word of streamText({ model, prompt, maxRetries }).textStream) words.push(word);
      return words;
    },
    tools: async () => {
      const called = [];
      const get_weather = tool({
        description: "Tell the weather of a city.",
        inputSchema: z.object({ city: z.string() }),
        execute: async (input) => {
          called.push(input);
          return "sunny";
        },
      });
      const result = await generateText({
        model,
        prompt: "What is the weather in Paris?",
        tools: { get_weather },
        stopWhen: stepCountIs(3),
        maxRetries,
      });
      return ["get_weather", ...called, result.text];
    },
    structured: async () =>
      (await generateObject({ model, prompt, schema: place, maxRetries })).object,
    error: async () => {
      try {
        await generateText({ model: made(`${name}-refused`), prompt, maxRetries });
      } catch (error) {
        return error.statusCode;
      }
      return null;
    },
  };
}

const results = {};
for (const target of targets) {
  const at = target.indexOf(":");
  const made = providers[target.slice(0, at)];
  results[target] = {};
  for (const [name, run] of Object.entries(casesOf(made, target.slice(at + 1)))) {
    try {
      results[target][name] = await run();
    } catch (error) {
      results[target][name] = { failed: String(error.stack).slice(0, 2000) };
    }
  }
}
console.log(JSON.stringify(results));
