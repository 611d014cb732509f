// cuBLASLt without a GPU: column-major products as its documentation defines them, summed in double. It refuses layouts that do
// not fit each other, so a wrong order of the factors is an error and not a wrong number.
#include <cstdint>
#include <cstring>

namespace {

// Values of cublasStatus_t, cublasLtMatmulDescAttributes_t and cudaDataType_t.
constexpr int success = 0, invalid_value = 7;
constexpr int transposes_a = 3, transposes_b = 4;
constexpr int of_floats = 0, of_bf16 = 14;

struct Matrix {
    int type;
    uint64_t rows, columns;
    int64_t line;
};

struct Product {
    int transposes[2] = {0, 0};
};

float element(const Matrix& matrix, const void* values, uint64_t row, uint64_t column) {
    uint64_t index = column * uint64_t(matrix.line) + row;
    if (matrix.type == of_floats) return static_cast<const float*>(values)[index];
    uint32_t bits = uint32_t(static_cast<const uint16_t*>(values)[index]) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

float element(const Matrix& matrix, bool is_transposed, const void* values, uint64_t row, uint64_t column) {
    return is_transposed ? element(matrix, values, column, row) : element(matrix, values, row, column);
}

uint64_t rows(const Matrix& matrix, bool is_transposed) { return is_transposed ? matrix.columns : matrix.rows; }
uint64_t columns(const Matrix& matrix, bool is_transposed) { return is_transposed ? matrix.rows : matrix.columns; }

bool fits(const Product& product, const Matrix& a, const Matrix& b, const Matrix& c) {
    auto [of_a, of_b] = product.transposes;
    bool is_wide = a.line >= int64_t(a.rows) && b.line >= int64_t(b.rows) && c.line >= int64_t(c.rows);
    return is_wide && columns(a, of_a) == rows(b, of_b) && rows(a, of_a) == c.rows && columns(b, of_b) == c.columns;
}

}  // namespace

extern "C" {

int cublasLtCreate(void** handle) { return *handle = new char, success; }
int cublasLtDestroy(void* handle) { return delete static_cast<char*>(handle), success; }

int cublasLtMatrixLayoutCreate(Matrix** matrix, int type, uint64_t rows, uint64_t columns, int64_t line) {
    if (type != of_floats && type != of_bf16) return invalid_value;
    return *matrix = new Matrix{type, rows, columns, line}, success;
}
int cublasLtMatrixLayoutDestroy(Matrix* matrix) { return delete matrix, success; }

int cublasLtMatmulDescCreate(Product** product, int, int) { return *product = new Product, success; }
int cublasLtMatmulDescDestroy(Product* product) { return delete product, success; }
int cublasLtMatmulDescSetAttribute(Product* product, int attribute, const int32_t* value, size_t bytes) {
    if (bytes != 4 || (attribute != transposes_a && attribute != transposes_b)) return invalid_value;
    return product->transposes[attribute - transposes_a] = *value, success;
}

int cublasLtMatmulPreferenceCreate(void** wishes) { return *wishes = new char, success; }
int cublasLtMatmulPreferenceDestroy(void* wishes) { return delete static_cast<char*>(wishes), success; }
int cublasLtMatmulPreferenceSetAttribute(void*, int, const void*, size_t) { return success; }

int cublasLtMatmulAlgoGetHeuristic(void*, const Product* product, const Matrix* a, const Matrix* b, const Matrix* c,
                                   const Matrix*, void*, int, void* found, int* count) {
    if (!fits(*product, *a, *b, *c)) return invalid_value;
    // Algorithm (64 bytes), workspace (8), state (4), waves (4), reserved (16).
    return std::memset(found, 0, 96), *count = 1, success;
}

int cublasLtMatmul(void*, const Product* product, const float* alpha, const void* a_values, const Matrix* a,
                   const void* b_values, const Matrix* b, const float* beta, const float* c_values, const Matrix* c,
                   float* d_values, const Matrix*, const void*, void* workspace, size_t workspace_bytes, void*) {
    if (!fits(*product, *a, *b, *c) || (workspace_bytes > 0 && !workspace)) return invalid_value;
    auto [of_a, of_b] = product->transposes;
    for (uint64_t row = 0; row < c->rows; row++)
        for (uint64_t column = 0; column < c->columns; column++) {
            double sum = 0;
            for (uint64_t term = 0; term < columns(*a, of_a); term++)
                sum += double(element(*a, of_a, a_values, row, term)) * element(*b, of_b, b_values, term, column);
            uint64_t index = column * uint64_t(c->line) + row;
            d_values[index] = float(*alpha * sum + (*beta == 0 ? 0.0 : *beta * double(c_values[index])));
        }
    return success;
}
}
