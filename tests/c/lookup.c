/* Asks the example document as a C program would. Says which expectation fails; says "ok" where none does. */
#include "kernel_sweep.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPECT(condition)                                                                                              \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            printf("line %d: not so: %s (last error: %s)\n", __LINE__, #condition, kernel_sweep_error());              \
            return 1;                                                                                                  \
        }                                                                                                              \
    } while (0)

static kernel_sweep_heuristics *load_text(const char *path) {
    char text[1 << 16];
    FILE *file = fopen(path, "rb");
    size_t length = file ? fread(text, 1, sizeof text, file) : 0;
    if (file)
        fclose(file);
    return kernel_sweep_load_json(text, length);
}

int main(int count, char **arguments) {
    if (count != 3)
        return 2;
    kernel_sweep_heuristics *heuristics = kernel_sweep_load(arguments[1]);
    EXPECT(heuristics != NULL);
    EXPECT(strcmp(kernel_sweep_error(), "") == 0);

    kernel_sweep_dimension shape[] = {{"m", 16}, {"n", 4096}, {"k", 4096}};
    kernel_sweep_answer answer;
    kernel_sweep_config configs[2];
    EXPECT(kernel_sweep_lookup(heuristics, "matmul_fp4", shape, 3, "torch.bfloat16", &answer, configs, 2) == 0);
    EXPECT(answer.source == KERNEL_SWEEP_RULE && answer.rule_index == 1 && answer.config_count == 2);
    EXPECT(answer.group[0] == 0);
    EXPECT(configs[0].block_size_count == 3 && configs[0].block_sizes[1] == 64 && configs[0].block_sizes[2] == 64);
    EXPECT(configs[0].num_warps == 4 && configs[0].num_stages == 4 && configs[0].l2_grouping == 1);
    EXPECT(configs[0].pid_type == KERNEL_SWEEP_PID_FLAT && configs[0].split_k == 0 && configs[0].mma == 0);
    EXPECT(configs[1].block_sizes[2] == 128);

    shape[0].value = 17;
    memset(configs, 0xff, sizeof configs);
    EXPECT(kernel_sweep_lookup(heuristics, "matmul_fp4", shape, 3, NULL, &answer, configs, 1) == 0);
    EXPECT(answer.source == KERNEL_SWEEP_FALLBACK && answer.rule_index == -1 && answer.config_count == 1);
    EXPECT(strcmp(answer.group, "small_m") == 0);
    EXPECT(configs[0].num_warps == 2 && configs[1].num_warps == 0xffffffffu);
    EXPECT(kernel_sweep_lookup(heuristics, "matmul_fp4", shape, 3, NULL, NULL, NULL, 0) == 0);

    kernel_sweep_dimension rows[] = {{"rows", 4}, {"cols", 4}};
    EXPECT(kernel_sweep_lookup(heuristics, "row_norm_rms", rows, 2, "f32", &answer, configs, 2) == 0);
    EXPECT(answer.source == KERNEL_SWEEP_NONE && answer.config_count == 0);

    EXPECT(kernel_sweep_lookup(heuristics, "matmul_fp4", shape, 2, NULL, &answer, configs, 2) == -1);
    EXPECT(strstr(kernel_sweep_error(), "needs dimension 'k'") != NULL);
    EXPECT(kernel_sweep_lookup(heuristics, "mamtul", shape, 3, NULL, &answer, configs, 2) == -1);
    EXPECT(strstr(kernel_sweep_error(), "'mamtul' is no family") != NULL);
    EXPECT(kernel_sweep_lookup(heuristics, NULL, shape, 3, NULL, &answer, configs, 2) == -1);
    EXPECT(kernel_sweep_lookup(NULL, "matmul", shape, 3, NULL, &answer, configs, 2) == -1);
    EXPECT(kernel_sweep_lookup(heuristics, "matmul", NULL, 3, NULL, &answer, configs, 2) == -1);
    const char *unfit[] = {"b16", "torch.bfloat17", "xfloat16y", "", "f32", "torch.int8", "fp8"};
    for (size_t index = 0; index < sizeof unfit / sizeof unfit[0]; index++)
        EXPECT(kernel_sweep_lookup(heuristics, "matmul", shape, 3, unfit[index], &answer, configs, 2) == -1);
    EXPECT(strstr(kernel_sweep_error(), "matmul does not run fp8") != NULL);
    shape[0].value = -1;
    EXPECT(kernel_sweep_lookup(heuristics, "matmul", shape, 3, NULL, &answer, configs, 2) == -1);
    EXPECT(strstr(kernel_sweep_error(), "m = -1") != NULL);
    EXPECT(kernel_sweep_lookup(heuristics, "\xff", shape, 3, NULL, &answer, configs, 2) == -1);

    /* A family that has no bf16 is asked for its own first type. */
    kernel_sweep_heuristics *h200 = kernel_sweep_builtin("h200");
    shape[0].value = 16;
    EXPECT(kernel_sweep_lookup(h200, "matmul_fp8", shape, 3, NULL, &answer, configs, 2) == 0 && answer.config_count > 0);
    EXPECT(kernel_sweep_lookup(h200, "matmul_fp8", shape, 3, "bf16", &answer, configs, 2) == -1);
    kernel_sweep_free(h200);

    const char *query = "{\"kernel_class\": \"matmul_fp4\", \"args\": [{\"shape\": [16, 4096], \"dtype\": \"torch.bfloat16\"},"
                        " {\"shape\": [2048, 4096], \"dtype\": \"torch.int8\"}]}";
    size_t length = kernel_sweep_lookup_json(heuristics, query, NULL, 0);
    char *json = malloc(length + 1);
    EXPECT(json != NULL && kernel_sweep_lookup_json(heuristics, query, json, length + 1) == length);
    EXPECT(strlen(json) == length && strstr(json, "\"rule_index\":1") != NULL);
    char start[8];
    EXPECT(kernel_sweep_lookup_json(heuristics, query, start, sizeof start) == length);
    EXPECT(strlen(start) == 7 && strncmp(start, json, 7) == 0);
    free(json);
    EXPECT(kernel_sweep_lookup_json(heuristics, NULL, NULL, 0) == 0);
    EXPECT(kernel_sweep_lookup_json_checked(heuristics, query, NULL, 0) == length);
    query = "{\"kernel_class\": \"matmul_fp4\", \"args\": [{\"shape\": [16, 4096], \"dtype\": \"torch.bfloat16\"},"
            " {\"shape\": [4096, 2048], \"dtype\": \"torch.int8\"}]}";
    EXPECT(kernel_sweep_lookup_json(heuristics, query, NULL, 0) > 0);
    EXPECT(kernel_sweep_lookup_json_checked(heuristics, query, NULL, 0) == 0);
    EXPECT(strstr(kernel_sweep_error(), "it would fit transposed") != NULL);
    kernel_sweep_free(heuristics);

    heuristics = kernel_sweep_load(arguments[2]);
    kernel_sweep_dimension exact[] = {{"m", 16}, {"n", 4096}, {"k", 4096}};
    EXPECT(kernel_sweep_lookup(heuristics, "matmul", exact, 3, "bf16", &answer, configs, 2) == 0);
    EXPECT(answer.source == KERNEL_SWEEP_MEASURED && answer.rule_index == -1 && answer.config_count == 2);
    EXPECT(configs[0].split_k == 4 && configs[1].split_k == 1 && answer.group[0] == 0);
    EXPECT(kernel_sweep_lookup(heuristics, "matmul", exact, 3, "f16", &answer, configs, 2) == 0);
    EXPECT(answer.source == KERNEL_SWEEP_RULE && configs[0].split_k == 8);
    exact[2].value = 4104;
    EXPECT(kernel_sweep_lookup(heuristics, "matmul", exact, 3, "bf16", &answer, configs, 2) == 0);
    EXPECT(answer.source == KERNEL_SWEEP_MODEL && configs[0].split_k == 1);
    length = kernel_sweep_explain_json(heuristics, "matmul", exact, 3, "bf16", NULL, 0);
    json = malloc(length + 1);
    EXPECT(json != NULL && kernel_sweep_explain_json(heuristics, "matmul", exact, 3, "bf16", json, length + 1) == length);
    EXPECT(strstr(json, "\"source\":\"model\"") != NULL && strstr(json, "\"predicted_us\":[") != NULL);
    free(json);
    EXPECT(kernel_sweep_explain_json(heuristics, "matmul", exact, 2, "bf16", NULL, 0) == 0);
    EXPECT(strstr(kernel_sweep_error(), "needs dimension 'k'") != NULL);
    kernel_sweep_free(heuristics);

    heuristics = load_text(arguments[1]);
    EXPECT(heuristics != NULL);
    kernel_sweep_free(heuristics);
    /* A family that nothing but the document describes is asked by name and dimensions. */
    const char *described =
        "{\"schema_version\": 2, \"policy\": {\"families\": {\"rope\": {\"dims\": [\"tokens\", \"dim\"], \"dtypes\": [\"bf16\", \"f32\"],"
        " \"bins\": {\"tokens_bin\": {\"of\": \"tokens\", \"bounds\": [16, 256]}},"
        " \"groups\": [{\"name\": \"few\", \"when\": \"tokens <= 16\"}, {\"name\": \"many\"}]}}},"
        " \"rules\": [{\"kernel_class\": \"rope\", \"match_exact_only\": true, \"shape_bucket\": {\"dtype\": \"fp16_bf16\","
        " \"tokens_bin\": \"<=256\"}, \"templates\": [{\"template\": {\"num_warps\": 8}}]}],"
        " \"fallbacks\": {\"rope\": {\"few\": {\"template\": {\"num_warps\": 1}}, \"many\": {\"template\": {\"num_warps\": 2}}}}}";
    heuristics = kernel_sweep_load_json(described, strlen(described));
    EXPECT(heuristics != NULL);
    kernel_sweep_dimension rope[] = {{"dim", 128}, {"tokens", 200}};
    EXPECT(kernel_sweep_lookup(heuristics, "rope", rope, 2, "bf16", &answer, configs, 2) == 0);
    EXPECT(answer.source == KERNEL_SWEEP_RULE && answer.config_count == 1 && configs[0].num_warps == 8);
    rope[1].value = 4096;
    EXPECT(kernel_sweep_lookup(heuristics, "rope", rope, 2, "f32", &answer, configs, 2) == 0);
    EXPECT(answer.source == KERNEL_SWEEP_FALLBACK && strcmp(answer.group, "many") == 0 && configs[0].num_warps == 2);
    EXPECT(kernel_sweep_lookup(heuristics, "rope", rope, 1, NULL, &answer, configs, 2) == -1);
    EXPECT(strstr(kernel_sweep_error(), "needs dimension 'tokens'") != NULL);
    EXPECT(kernel_sweep_lookup(heuristics, "rope", rope, 2, "i32", &answer, configs, 2) == -1);
    kernel_sweep_free(heuristics);

    EXPECT(kernel_sweep_load("/nowhere.json") == NULL && strstr(kernel_sweep_error(), "/nowhere.json") != NULL);
    EXPECT(kernel_sweep_load(NULL) == NULL);
    EXPECT(kernel_sweep_load_json("{", 1) == NULL && strstr(kernel_sweep_error(), "broken JSON") != NULL);
    EXPECT(kernel_sweep_builtin("gtx9999") == NULL && strstr(kernel_sweep_error(), "gtx9999") != NULL);
    kernel_sweep_free(NULL);
    puts("ok");
    return 0;
}
